"""Counters and histograms, cheap enough to be kept always; know nothing of who reads them, nor of Prometheus.

Whoever does the work holds them as plain attributes. Each has one writer at a time: a thread of its own, the event
loop, or whoever holds a lock that is held anyway. Readers may be on any thread and take no lock: a list is copied in
one step under the interpreter's lock, so the counts that a reader gets belong together; the sum may be ahead of them.
"""

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["SECONDS", "SIZES", "Counter", "Histogram"]

#: From a tenth of a millisecond, what a cached text takes, to a minute.
SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int = 1) -> None:
        """Count `amount` more."""
        self.value += amount


class Histogram:
    """How many values fell where.

    Args:
        bounds: upper bounds, each belonging to what is below it, ascending; what is above the last is counted too.
            By default those of seconds.
    """

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count a value."""
        self.sum += value
        self._counts[bisect_left(self.bounds, value)] += 1

    def counts(self) -> list[int]:
        """Return how many values fell between each bound and the one before; last, those above all bounds."""
        return self._counts.copy()
