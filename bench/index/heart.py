"""A heart that beats in the event loop: how long the loop answered nobody; knows nothing of what held it up."""

import asyncio
import time
from dataclasses import dataclass

import numpy as np

__all__ = ["Heart", "Pauses"]

_BEAT_S = 0.001


@dataclass(frozen=True, slots=True)
class Pauses:
    """How much longer than the beat a loop's sleeps of one beat took."""

    longest_ms: float
    p99_ms: float


class Heart:
    """Beats every millisecond from its making, in the running loop, and remembers its pauses."""

    def __init__(self) -> None:
        self._pauses_s: list[float] = []
        self._last = time.perf_counter()
        self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            self._note()

    def _note(self) -> None:
        now = time.perf_counter()
        self._pauses_s.append(now - self._last)
        self._last = now

    def stop(self) -> Pauses:
        """End, and return the pauses; the one that is under way counts."""
        self._task.cancel()
        self._note()
        longest, p99 = np.maximum(np.percentile(self._pauses_s, [100, 99]) - _BEAT_S, 0.0) * 1e3
        return Pauses(round(float(longest), 3), round(float(p99), 3))
