"""Whether and when a broken stream is tried again; knows nothing of items, threads or how connections are made.

An outage begins with a failure and ends with the next answer to an item. Within it the pauses grow, and both the number
of attempts and the time are bounded; an answer starts all of that anew. A failure that trying again cannot mend (a
collection that is not there, a key that does not fit) is raised at once, and so is a server that was never reached.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from clip_search.defaults import DEFAULT_RESUME_SECONDS
from clip_search.errors import (
    ClipSearchError,
    DeadlineExceededError,
    ResourceExhaustedError,
    UnavailableError,
    UnreachableError,
)

__all__ = ["Outage", "ResumePolicy"]

_PASSING = (DeadlineExceededError, ResourceExhaustedError, UnavailableError)
_VARIATION = 0.2  # so that the clients of a restarted server do not come all at once


@dataclass(frozen=True, slots=True)
class ResumePolicy:
    """How a stream goes on after its connection broke; both bounds hold from one answered item to the next.

    Args:
        seconds_max: how long it is tried.
        attempts_max: how often it is tried.
        backoff_initial_seconds: about the first pause; each is twice the one before.
        backoff_seconds_max: about the longest pause, unless the server names a time.
    """

    seconds_max: float = DEFAULT_RESUME_SECONDS
    attempts_max: int = 100
    backoff_initial_seconds: float = 0.1
    backoff_seconds_max: float = 5.0


class Outage:
    """The failures of one stream since an item was last answered.

    Args:
        policy: what bounds them; None for no second attempt.
        clock: seconds that only grow.
    """

    def __init__(self, policy: ResumePolicy | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._clock = clock
        self._reached = False
        self._began: float | None = None
        self._attempts = 0

    def end(self) -> None:
        """Take note that an item was answered."""
        self._reached = True
        self._began = None
        self._attempts = 0

    def pause_seconds(self, error: ClipSearchError) -> float:
        """Tell how long to wait before the next attempt; raise `error` where there shall be none."""
        if self._policy is None or not self._can_pass(error):
            raise error
        self._reached = True
        now = self._clock()
        if self._began is None:
            self._began = now
        left_seconds = self._policy.seconds_max - (now - self._began)
        wanted_seconds = getattr(error, "retry_after_seconds", None) or 0.0
        if self._attempts >= self._policy.attempts_max or left_seconds <= 0 or wanted_seconds > left_seconds:
            error.add_note(f"tried {self._attempts} times in {now - self._began:.1f} s to go on, without an answer")
            raise error
        pause_seconds = min(
            self._policy.backoff_initial_seconds * 2.0 ** min(self._attempts, 30), self._policy.backoff_seconds_max
        )
        self._attempts += 1
        varied_seconds = pause_seconds * random.uniform(1 - _VARIATION, 1 + _VARIATION)  # noqa: S311  # no secret
        return min(max(varied_seconds, wanted_seconds), left_seconds)

    def _can_pass(self, error: ClipSearchError) -> bool:
        if isinstance(error, UnreachableError) and not self._reached:
            return False
        # A server that stops in the middle of a call may end it as CANCELLED.
        return isinstance(error, _PASSING) or error.code == "CANCELLED"
