"""When an answer is wanted, whose it is, and whether a person waits for it; knows nothing of how it is computed."""

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Final

from clip_search_server.errors import DeadlineExceededError

__all__ = ["INTERACTIVE_INPUTS_MAX", "Urgency"]

INTERACTIVE_INPUTS_MAX: Final = 16
"""Inputs of one request that a person may be waiting for; a request of more is a job, and waits behind people."""


@dataclass(frozen=True, slots=True)
class Urgency:
    """When an answer is wanted.

    Args:
        deadline: on the clock of `time.monotonic`, None for none.
        bulk: True for work that nobody watches, such as ingest.
        client: who asks, in whatever form tells clients apart; they take turns.
    """

    deadline: float | None = None
    bulk: bool = False
    client: str = ""

    def for_inputs(self, count: int) -> "Urgency":
        """Return this urgency for a request of `count` inputs, which makes it bulk where they are many."""
        return self if self.bulk or count <= INTERACTIVE_INPUTS_MAX else dataclasses.replace(self, bulk=True)

    def remaining_seconds(self) -> float:
        """Return the time that is left; infinite without a deadline."""
        return math.inf if self.deadline is None else self.deadline - time.monotonic()

    def check(self) -> None:
        """Raise DeadlineExceededError where no time is left, so that nothing more is done for nobody."""
        if self.remaining_seconds() <= 0:
            raise DeadlineExceededError("The deadline passed before the request was finished.")
