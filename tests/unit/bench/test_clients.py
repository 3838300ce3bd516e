import asyncio
import time

import pytest

from bench.index.clients import Latencies, closed_loop, open_loop
from bench.index.heart import Heart


async def test_clients_wait_for_their_answers() -> None:
    """No more requests are under way than there are clients, and no two have the same number."""
    asked: list[int] = []
    under_way = most = 0

    async def ask(number: int) -> None:
        nonlocal under_way, most
        asked.append(number)
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.002)
        under_way -= 1

    found = await closed_loop(ask, clients=3, seconds=0.1)
    assert most == 3
    assert found.count == len(asked) == len(set(asked))
    assert found.p50_ms >= 2


async def test_arrivals_do_not_wait_and_count_from_when_they_were_due() -> None:
    """A server that stands still at first is late for all requests that came meanwhile."""
    opened = asyncio.Event()

    async def ask(_number: int) -> None:
        await opened.wait()

    asyncio.get_running_loop().call_later(0.3, opened.set)
    found = await open_loop(ask, per_second=400, keep_going=lambda seconds: seconds < 0.3)
    assert 60 < found.count < 240
    # Evenly spread over 0.3 s, half of them waited longer than about half of that.
    assert 100 < found.p50_ms < 250
    assert found.p99_ms > 250


async def test_arrivals_are_the_same_every_time() -> None:
    """The same seed gives the same number of arrivals in the same time, whatever the answers take."""

    async def count(pause_s: float) -> int:
        async def ask(_number: int) -> None:
            await asyncio.sleep(pause_s)

        return (await open_loop(ask, per_second=1000, keep_going=lambda seconds: seconds < 0.1)).count

    assert await count(0.0) == await count(0.01)


def test_latencies_are_summed_up() -> None:
    """Median, 99th percentile and rate of a known list."""
    assert Latencies.of([0.001] * 98 + [0.5] * 2, 10.0) == Latencies(100, 10.0, 1.0, 500.0)


async def test_the_heart_feels_what_holds_the_loop_up() -> None:
    """A pause of the loop is the longest; where most beats came in time, the 99th percentile is not."""
    heart = Heart()
    await asyncio.sleep(0.4)
    time.sleep(0.08)  # noqa: ASYNC251 - this is the hold-up
    pauses = heart.stop()
    assert pauses.longest_ms == pytest.approx(80, abs=60)
    assert pauses.longest_ms > 70
    assert pauses.p99_ms < pauses.longest_ms
