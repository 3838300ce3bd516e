"""How fast work leaves while more waits, and when who was refused should come back; knows nothing of what the work is.

Only time with a backlog counts: a lone request takes as long as it takes, which says nothing of how many could be done.
"""

import time
from collections.abc import Callable

__all__ = ["DrainRate"]

_MEMORY_SECONDS = 4.0
"""After this much time with a backlog, what was seen before counts half."""
_SEEN_SECONDS_MIN = 0.05
_UNKNOWN_SECONDS = 0.1
"""What a refused caller waits at least where no rate is known yet."""
_PUSHBACK_SECONDS_MAX = 10.0


class DrainRate:
    """Measures departures a second, and spreads the refused over the time to come at that rate."""

    def __init__(self, *, backlog_min: int, clock: Callable[[], float] | None = None) -> None:
        """Start with nothing seen.

        Args:
            backlog_min: entries inside beyond which some of them certainly wait.
            clock: gives seconds; `time.monotonic` by default.
        """
        self._backlog_min = backlog_min
        self._clock = clock or time.monotonic
        self._inside = 0
        self._since: float | None = None
        self._busy_seconds = 0.0
        self._departures = 0.0
        self._next_return = 0.0

    @property
    def per_second(self) -> float | None:
        """Departures a second; None as long as there was no backlog to speak of."""
        self._count()
        return self._departures / self._busy_seconds if self._busy_seconds >= _SEEN_SECONDS_MIN else None

    def seconds_for(self, count: int) -> float:
        """Return how long `count` departures take; 0 where no rate is known yet."""
        rate = self.per_second
        return count / rate if rate else 0.0

    def enter(self) -> None:
        """Note that an entry came in."""
        self._count()
        self._inside += 1

    def leave(self, *, finished: bool) -> None:
        """Note that an entry left; only finished work counts as drained."""
        self._count()
        if finished and self._inside > self._backlog_min:
            self._departures += 1
        self._inside -= 1

    def pushback_seconds(self, ahead: int) -> float:
        """Return when a refused caller should come back: after `ahead` departures, and behind those refused before."""
        now = self._clock()
        rate = self.per_second
        gap = 1 / rate if rate else _UNKNOWN_SECONDS
        wanted = max(now + max(1, ahead) * gap, self._next_return + gap)
        self._next_return = min(wanted, now + _PUSHBACK_SECONDS_MAX)
        return self._next_return - now

    def _count(self) -> None:
        """Add the time since the last event, if there was a backlog all the while."""
        now = self._clock()
        if self._since is not None and self._inside > self._backlog_min:
            self._busy_seconds += now - self._since
            if self._busy_seconds > _MEMORY_SECONDS:
                self._busy_seconds /= 2
                self._departures /= 2
        self._since = now
