"""Clients that ask one after the other, and arrivals on a schedule; knows nothing of what is asked.

*Closed loop*: each client waits for its answer before it asks again, which measures what a server can do. *Open loop*:
requests arrive when they arrive, whether the ones before are answered or not, as people's do. Their latency counts from
the moment they were due, so that a server which stands still for a second is late for all that came meanwhile (and not
for one request alone, as clients in a closed loop would have it).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Ask", "Latencies", "closed_loop", "open_loop"]

# Asks the request of this number.
Ask = Callable[[int], Awaitable[object]]

_WAITING_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Latencies:
    """How a number of requests fared."""

    count: int
    per_second: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, times_s: list[float], seconds: float) -> "Latencies":
        """Sum up the times that requests took within so many seconds."""
        p50, p99 = np.percentile(times_s, [50, 99]) * 1e3
        return cls(len(times_s), round(len(times_s) / seconds, 1), round(float(p50), 3), round(float(p99), 3))


async def closed_loop(ask: Ask, *, clients: int, seconds: float) -> Latencies:
    """Ask with so many clients at once for so long."""
    started = time.perf_counter()
    times_s: list[float] = []

    async def client(first: int) -> None:
        number = first
        while (asked := time.perf_counter()) < started + seconds:
            await ask(number)
            times_s.append(time.perf_counter() - asked)
            number += clients

    await asyncio.gather(*(client(first) for first in range(clients)))
    return Latencies.of(times_s, time.perf_counter() - started)


async def open_loop(ask: Ask, *, per_second: float, keep_going: Callable[[float], bool], seed: int = 0) -> Latencies:
    """Ask at moments that do not depend on the answers, as often on average, until `keep_going(seconds)` says no.

    Raises:
        RuntimeError: far more requests wait than could be answered.
    """
    random = np.random.default_rng(seed)
    started = time.perf_counter()
    due = 0.0
    times_s: list[float] = []
    waiting: set[asyncio.Task[None]] = set()

    async def request(number: int, due: float) -> None:
        await ask(number)
        times_s.append(time.perf_counter() - started - due)

    number = 0
    while keep_going(due):
        due += float(random.exponential(1 / per_second))
        await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
        task = asyncio.create_task(request(number, due))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
        if len(waiting) > _WAITING_MAX:
            raise RuntimeError(f"{len(waiting)} requests wait: {per_second:.0f} a second are too many")
        number += 1
    await asyncio.gather(*waiting)
    return Latencies.of(times_s, time.perf_counter() - started)
