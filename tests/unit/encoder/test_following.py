"""Spans of batches: the batch's own, and those of the requests in it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import pytest_asyncio

from clip_search_server.encoder.batching import BatchBounds, Batcher, Gate, Urgency
from clip_search_server.spans import within
from tests.recorded_spans import RecordedSpan

NOW = Urgency()


class Tower:
    """Gives numbers back; refuses 13; holds still while `gate` is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)

    def run(self, numbers: list[int]) -> list[int]:
        """Serve as the batcher's `run`."""
        self.entered.release()
        assert self.gate.wait(10)
        if 13 in numbers:
            raise ValueError("13 is not accepted")
        return numbers


@pytest.fixture
def tower() -> Tower:
    """A tower that holds still."""
    return Tower()


@pytest_asyncio.fixture
async def batcher(tower: Tower) -> AsyncIterator[Batcher[int, int]]:
    """A batcher whose numbers are as long as they say."""
    with ThreadPoolExecutor(1) as executor:
        yield Batcher(
            tower.run, executor, name="text", bounds=BatchBounds(4, 99, 99), model="b32", length=lambda number: number
        )
        tower.gate.set()


async def _queued_behind_another(batcher: Batcher[int, int], tower: Tower, *numbers: int) -> list[RecordedSpan | None]:
    """Run numbers in one batch, odd ones for traced calls; return the calls."""
    first = asyncio.create_task(batcher.submit(1, NOW))
    assert await asyncio.to_thread(tower.entered.acquire, timeout=10)
    calls = [RecordedSpan() if number % 2 else None for number in numbers]
    tasks = []
    for number, call in zip(numbers, calls, strict=True):
        with within(call):
            tasks.append(asyncio.create_task(batcher.submit(number, NOW)))
    await asyncio.sleep(0)
    tower.gate.set()
    await asyncio.gather(first, *tasks, return_exceptions=True)
    return calls


async def test_requests_share_the_span_of_their_batch(batcher: Batcher[int, int], tower: Tower) -> None:
    """Each traced request has its wait and its batch; those and the batch's own link to each other."""
    three, four, five = await _queued_behind_another(batcher, tower, 3, 4, 5)
    assert four is None
    assert three is not None
    assert five is not None
    (shared,) = {joint for call in (three, five) for span in call.children for joint in span.joints}
    assert shared.name == "text batch"
    assert shared.notes == {"model": "b32", "inputs": 3, "units": 15, "padding_units": 3}
    for call in (three, five):
        assert call.tree() == ["queue", "batch"]
        queue, batch = call.children
        assert batch.links == [shared]
        assert queue.ended_at == batch.started_at == shared.started_at
        assert batch.ended_at == shared.ended_at
        assert queue.started_at is not None
        assert queue.ended_at is not None
        assert queue.started_at < queue.ended_at
    assert shared.links == [three.children[1], five.children[1]]
    assert shared.ended


async def test_a_batch_that_fails_and_runs_again_is_told_so(batcher: Batcher[int, int], tower: Tower) -> None:
    """The failed batch has the error; then each entry has a batch of its own, and waited since the first."""
    three, thirteen = await _queued_behind_another(batcher, tower, 3, 13)
    assert three is not None
    assert thirteen is not None
    assert three.tree() == thirteen.tree() == ["queue", "batch", "queue", "batch"]
    assert [type(span.error) for span in three.children] == [type(None), ValueError, type(None), type(None)]
    assert isinstance(thirteen.children[3].error, ValueError)
    assert all(span.ended for call in (three, thirteen) for span in call.every() if span is not call)
    first_end, second_start = three.children[1].ended_at, three.children[2].started_at
    assert first_end is not None
    assert second_start is not None
    assert second_start >= first_end


async def test_waiting_for_room_is_a_stage_where_there_was_none() -> None:
    """What comes in at once has none."""
    call, gate = RecordedSpan(), Gate(items_max=1, bytes_max=10)
    with within(call):
        await gate.enter(1, NOW)
        waiting = asyncio.create_task(gate.enter(1, NOW))
        await asyncio.sleep(0)
        assert call.tree() == ["wait for room"]
        gate.leave(1)
        await waiting
    assert call.children[0].ended
