"""The batcher's rules, on a tower that the test holds still and lets go."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import pytest_asyncio

from clip_search_server.encoder.batching import Batcher, Urgency
from clip_search_server.errors import DeadlineExceededError, ResourceExhaustedError, UnavailableError

NOW = Urgency()
BULK = Urgency(bulk=True)


class Tower:
    """Doubles numbers in batches; refuses 13; holds still while `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def run(self, numbers: list[int]) -> list[int]:
        """Serve as the batcher's `run`."""
        self.batches.append(numbers)
        self.entered.release()
        assert self.gate.wait(10)
        if 13 in numbers:
            raise ValueError("13 is not accepted")
        return [2 * number for number in numbers]

    async def started(self) -> None:
        """Wait until one more batch is running."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


@pytest.fixture
def tower() -> Tower:
    """A tower whose gate is open."""
    return Tower()


@pytest_asyncio.fixture
async def make(tower: Tower) -> AsyncIterator[Callable[..., Batcher[int, int]]]:
    """A maker of batchers over `tower`; the options are those of `Batcher`."""
    with ThreadPoolExecutor(1) as executor:

        def build(**options: object) -> Batcher[int, int]:
            settings = {"name": "number", "batch_size_max": 4, "queue_length_max": 16, **options}
            return Batcher(tower.run, executor, **settings)  # type: ignore[arg-type]

        yield build
        tower.gate.set()


def queue_up(batcher: Batcher[int, int], *numbers: int, urgency: Urgency = NOW) -> list[asyncio.Task[int]]:
    """Start to submit each number."""
    return [asyncio.create_task(batcher.submit(number, urgency)) for number in numbers]


async def held(batcher: Batcher[int, int], tower: Tower) -> asyncio.Task[int]:
    """Close the gate with one batch inside, so that what follows has to queue."""
    tower.gate.clear()
    (task,) = queue_up(batcher, 0)
    await tower.started()
    return task


async def test_an_idle_batcher_starts_at_once(make: Callable[..., Batcher[int, int]], tower: Tower) -> None:
    """A lone entry runs alone, without waiting for company."""
    assert await make().submit(21, NOW) == 42
    assert tower.batches == [[21]]


async def test_a_busy_batcher_gathers_what_arrives(make: Callable[..., Batcher[int, int]], tower: Tower) -> None:
    """Entries that arrive during a batch share the next ones, up to the largest size, in order."""
    batcher = make()
    first = await held(batcher, tower)
    tasks = queue_up(batcher, 1, 2, 3, 4, 5, 6)
    await asyncio.sleep(0)
    tower.gate.set()
    assert await asyncio.gather(first, *tasks) == [0, 2, 4, 6, 8, 10, 12]
    assert tower.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_interactive_entries_go_ahead_of_bulk(make: Callable[..., Batcher[int, int]], tower: Tower) -> None:
    """A person's entry overtakes bulk entries that were there before it."""
    batcher = make(batch_size_max=2)
    first = await held(batcher, tower)
    bulk = queue_up(batcher, 1, 2, 3, urgency=BULK)
    await asyncio.sleep(0)
    person = queue_up(batcher, 9)
    await asyncio.sleep(0)
    tower.gate.set()
    await asyncio.gather(first, *bulk, *person)
    assert tower.batches == [[0], [9, 1], [2, 3]]


async def test_bulk_entries_age(make: Callable[..., Batcher[int, int]], tower: Tower) -> None:
    """A bulk entry that has waited too long goes first."""
    batcher = make(batch_size_max=1, bulk_wait_seconds_max=0.0)
    first = await held(batcher, tower)
    tasks = [*queue_up(batcher, 1, urgency=BULK), *queue_up(batcher, 9)]
    await asyncio.sleep(0)
    tower.gate.set()
    await asyncio.gather(first, *tasks)
    assert tower.batches == [[0], [1], [9]]


async def test_old_bulk_entries_do_not_starve_people(make: Callable[..., Batcher[int, int]], tower: Tower) -> None:
    """Where every bulk entry is over age, interactive entries still get every other batch."""
    batcher = make(batch_size_max=1, bulk_wait_seconds_max=0.0)
    first = await held(batcher, tower)
    tasks = [*queue_up(batcher, 1, 2, 3, urgency=BULK), *queue_up(batcher, 8, 9)]
    await asyncio.sleep(0)
    tower.gate.set()
    await asyncio.gather(first, *tasks)
    assert tower.batches == [[0], [1], [8], [2], [9], [3]]


async def test_only_one_group_shares_a_batch(make: Callable[..., Batcher[int, int]], tower: Tower) -> None:
    """Entries of different groups never meet in a batch, and none is lost or reordered within its group."""
    batcher = make(group=lambda number: number % 2)
    first = await held(batcher, tower)
    tasks = queue_up(batcher, 1, 2, 3, 4, 5)
    await asyncio.sleep(0)
    tower.gate.set()
    assert await asyncio.gather(first, *tasks) == [0, 2, 4, 6, 8, 10]
    assert tower.batches == [[0], [1, 3, 5], [2, 4]]


async def test_a_bad_entry_fails_alone(make: Callable[..., Batcher[int, int]], tower: Tower) -> None:
    """When a batch fails, its neighbours are answered and only the bad entry gets the error."""
    batcher = make()
    first = await held(batcher, tower)
    tasks = queue_up(batcher, 1, 13, 3)
    await asyncio.sleep(0)
    tower.gate.set()
    one, bad, three = await asyncio.gather(*tasks, return_exceptions=True)
    assert (one, three) == (2, 6)
    assert isinstance(bad, ValueError)
    assert await first == 0


async def test_cancelled_entries_are_never_run(make: Callable[..., Batcher[int, int]], tower: Tower) -> None:
    """An entry whose caller went away does not take part in a batch."""
    batcher = make()
    first = await held(batcher, tower)
    gone, stays = queue_up(batcher, 1, 2)
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    tower.gate.set()
    await asyncio.gather(first, stays)
    assert tower.batches == [[0], [2]]


async def test_expired_entries_are_refused(make: Callable[..., Batcher[int, int]], tower: Tower) -> None:
    """An entry whose deadline passed in the queue is told so and does not run."""
    batcher = make()
    first = await held(batcher, tower)
    (late,) = queue_up(batcher, 1, urgency=Urgency(deadline=time.monotonic() - 1))
    await asyncio.sleep(0)
    tower.gate.set()
    with pytest.raises(DeadlineExceededError):
        await late
    await first
    assert tower.batches == [[0]]


async def test_a_full_queue_refuses_at_once(make: Callable[..., Batcher[int, int]], tower: Tower) -> None:
    """One entry more than the queue holds is refused with a time to come back."""
    batcher = make(queue_length_max=2)
    first = await held(batcher, tower)
    tasks = queue_up(batcher, 1, 2)
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhaustedError) as refused:
        await batcher.submit(3, NOW)
    assert (refused.value.retry_after_seconds or 0) > 0
    tower.gate.set()
    await asyncio.gather(first, *tasks)


async def test_close_finishes_what_is_queued(make: Callable[..., Batcher[int, int]], tower: Tower) -> None:
    """Closing answers every queued entry and refuses new ones."""
    batcher = make()
    first = await held(batcher, tower)
    tasks = queue_up(batcher, 1, 2)
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError):
        await batcher.submit(3, NOW)
    tower.gate.set()
    assert await asyncio.gather(first, *tasks) == [0, 2, 4]
    await closing


async def test_a_tower_that_loses_outputs_fails_its_entries(make: Callable[..., Batcher[int, int]]) -> None:
    """A wrong number of outputs is an error for every entry, never a hang or a mix-up."""
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher[int, int](lambda _: [], executor, name="lossy", batch_size_max=4, queue_length_max=4)
        with pytest.raises(RuntimeError, match="This is a bug"):
            await batcher.submit(1, NOW)
