"""What was measured of a tower, and what follows from it; knows nothing of towers and of files.

The time of a batch is close to start + unit · units, where units are inputs times their padded length. The best fit of
the two (least squares of relative errors) gives how large a batch may be, and how much padding is worth another input.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from clip_search_server.encoder.batching import BatchBounds, Pace

__all__ = ["BATCH_SECONDS_LONGEST", "BATCH_SECONDS_MAX", "Timing", "TowerTuning", "Tuning", "best"]

BATCH_SECONDS_MAX: Final = 0.06
"""How long a batch may take, if such batches keep the tower busy: whoever comes while one runs waits for it."""
BATCH_SECONDS_LONGEST: Final = 0.2
"""How long it may take where shorter ones would mostly pay for being started."""
_BUSY_SHARE = 0.95
"""Of a batch's time, what its units should take; the rest starts it."""
_SIZE_MAX = 64
_CLEARLY_BETTER = 1.15
"""How many times as fast fewer threads must be to be taken: with all of them, what else runs only costs its part."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The shortest time that a batch of `inputs`, each of `length` units, took."""

    inputs: int
    length: int
    seconds: float

    @property
    def units(self) -> int:
        """Units of work in the batch."""
        return self.inputs * self.length


@dataclass(frozen=True, slots=True)
class TowerTuning:
    """A tower with `threads`, measured; `length_max` is the longest input it takes."""

    threads: int
    length_max: int
    timings: tuple[Timing, ...]

    def line(self) -> tuple[float, float]:
        """Return seconds of starting a batch and of a unit in it, neither negative."""
        units = np.array([timing.units for timing in self.timings], np.float64)  # (shapes,)
        seconds = np.array([timing.seconds for timing in self.timings], np.float64)
        rows = np.stack([1 / seconds, units / seconds], axis=1)  # (shapes, 2), relative errors
        start, unit = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=None)[0]
        if start < 0 or unit <= 0:
            return 0.0, float(np.max(seconds / units))
        return float(start), float(unit)

    def pace(self) -> Pace:
        """Return how long batches take."""
        return Pace(*self.line())

    def bounds(self) -> BatchBounds:
        """Return the largest batch that takes no longer than `BATCH_SECONDS_MAX`; one input always may.

        Where that is too little to keep the tower busy, as for a large tower on few processors, it is the smallest that
        does, or the largest that takes no longer than `BATCH_SECONDS_LONGEST`: under load, batches that are started
        less often answer everybody sooner.
        """
        start, unit = self.line()
        busy = math.ceil(_BUSY_SHARE / (1 - _BUSY_SHARE) * start / unit)
        longest = math.floor((BATCH_SECONDS_LONGEST - start) / unit)
        units = max(self.length_max, math.floor((BATCH_SECONDS_MAX - start) / unit), min(busy, longest))
        return BatchBounds(size_max=_SIZE_MAX, units_max=units, padding_max=min(units, round(start / unit)))

    def units_per_second(self) -> float:
        """Return the throughput of the largest batches."""
        start, unit = self.line()
        units = self.bounds().units_max
        return units / (start + unit * units)

    def refined(self, others: Iterable[Timing]) -> "TowerTuning":
        """Return the tuning with the shortest time of each shape: what else ran can only have made it longer."""
        shortest = {(timing.inputs, timing.length): timing for timing in self.timings}
        for timing in others:
            known = shortest.get((timing.inputs, timing.length))
            if known is None or timing.seconds < known.seconds:
                shortest[timing.inputs, timing.length] = timing
        return TowerTuning(self.threads, self.length_max, tuple(shortest.values()))


@dataclass(frozen=True, slots=True)
class Tuning:
    """Both towers of a bundle; `rounds` counts how often each shape was measured."""

    image: TowerTuning
    text: TowerTuning
    rounds: int = 1


def best(candidates: Iterable[TowerTuning]) -> TowerTuning:
    """Return the candidate of most threads, unless fewer have a clearly higher throughput."""
    measured = sorted(candidates, key=lambda tuning: -tuning.threads)
    chosen = measured[0]
    for tuning in measured[1:]:
        if tuning.units_per_second() > _CLEARLY_BETTER * chosen.units_per_second():
            chosen = tuning
    return chosen
