"""How long batches take: a part for each batch, a part for each unit of work, and how far they are from that now.

The two parts are measured on an idle machine (`clip_search_server.encoder.tuning`); the factor between them and what is
observed follows what else the machine does. Knows nothing of queues.
"""

__all__ = ["Pace"]

_NEWEST_WEIGHT = 0.2
_SLOWDOWN_MIN, _SLOWDOWN_MAX = 0.1, 100.0


class Pace:
    """Predicts seconds of batches.

    Args:
        start_seconds: what any batch takes, however small.
        unit_seconds: what each unit of work adds.
    """

    def __init__(self, start_seconds: float = 0.0, unit_seconds: float = 0.0) -> None:
        self._start_seconds = start_seconds
        self._unit_seconds = unit_seconds
        self._slowdown = 1.0

    def least_seconds(self, units: int) -> float:
        """Return what a batch of `units` takes on an idle machine; 0 where nothing was measured."""
        return self._start_seconds + self._unit_seconds * units

    def seconds(self, units: int) -> float:
        """Return what a batch of `units` takes as things are."""
        return self._slowdown * self.least_seconds(units)

    def observe(self, units: int, seconds: float) -> None:
        """Take note of a batch that was run."""
        expected = self.least_seconds(units)
        if expected > 0:
            slowdown = min(max(seconds / expected, _SLOWDOWN_MIN), _SLOWDOWN_MAX)
            self._slowdown += _NEWEST_WEIGHT * (slowdown - self._slowdown)
