"""How many calls are open and how many bytes they hold; refusals at once, with a time to come back."""

import asyncio

import pytest

from clip_search_server.errors import ResourceExhaustedError, UnavailableError
from clip_search_server.limits import Limits
from clip_search_server.rpc.open_calls import OpenCalls


async def _call(calls: OpenCalls, end: asyncio.Event) -> None:
    calls.enter()
    await end.wait()


async def test_a_call_beyond_the_limit_is_refused_with_a_time() -> None:
    """It is refused at the door and in its handler, and accepted once another has ended."""
    calls, end = OpenCalls(Limits(calls_max=2)), asyncio.Event()
    tasks = [asyncio.create_task(_call(calls, end)) for _ in range(2)]
    await asyncio.sleep(0)
    for refuse in (calls.check, calls.enter):
        with pytest.raises(ResourceExhaustedError, match="calls_max") as refused:
            refuse()
        assert (refused.value.retry_after_seconds or 0) > 0
    end.set()
    await asyncio.gather(*tasks)
    calls.check()


async def test_the_time_to_come_back_follows_from_how_calls_end() -> None:
    """Where calls end twice as fast, a refused caller comes back in half the time."""

    async def pushback(seconds: float) -> float:
        calls = OpenCalls(Limits(calls_max=8))
        end = asyncio.Event()
        held = [asyncio.create_task(_call(calls, end)) for _ in range(6)]
        for _ in range(12):
            short = asyncio.Event()
            task = asyncio.create_task(_call(calls, short))
            await asyncio.sleep(seconds)
            short.set()
            await task
        held += [asyncio.create_task(_call(calls, end)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhaustedError) as refused:
            calls.check()
        end.set()
        await asyncio.gather(*held)
        return refused.value.retry_after_seconds or 0.0

    assert await pushback(0.01) < 0.7 * await pushback(0.03)


async def test_a_call_counts_until_its_task_ends() -> None:
    """Whoever drains waits until the answer is sent, not just computed; cancelled calls end too."""
    calls, end = OpenCalls(Limits()), asyncio.Event()
    finished, cancelled = (asyncio.create_task(_call(calls, end)) for _ in range(2))
    await asyncio.sleep(0)
    idle = asyncio.create_task(calls.wait_until_idle())
    cancelled.cancel()
    await asyncio.sleep(0.01)
    assert not idle.done()
    end.set()
    await finished
    await asyncio.wait_for(idle, 5)


async def test_bytes_of_requests_are_bounded() -> None:
    """One more than fits is refused; a lone request may be larger than the bound."""
    calls = OpenCalls(Limits(bytes_in_flight_max=100))
    with (
        calls.holding(60),
        pytest.raises(ResourceExhaustedError, match="bytes_in_flight_max"),
        calls.holding(50),
    ):
        pytest.fail("there is no room")
    with calls.holding(1_000):
        pass
    with calls.holding(60), calls.holding(40):
        pass


async def test_a_draining_server_takes_nothing_new() -> None:
    """New calls are told UNAVAILABLE, and streams can see that they should end."""
    calls = OpenCalls(Limits())
    assert not calls.draining.is_set()
    calls.drain()
    with pytest.raises(UnavailableError):
        calls.check()
    assert calls.draining.is_set()
