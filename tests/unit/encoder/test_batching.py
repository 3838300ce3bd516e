"""The batcher's rules, on a tower that the test holds still and lets go."""

import asyncio
import contextvars
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_search_server.encoder.batching import BatchBounds, Batcher, Pace, Urgency
from clip_search_server.encoder.batching.bounds import BatchShape
from clip_search_server.errors import DeadlineExceededError, UnavailableError

NOW = Urgency()
BULK = Urgency(bulk=True)
FOUR = BatchBounds(4, 4)


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
        if 66 in numbers:
            raise SystemExit(66)
        return [2 * number for number in numbers]

    async def started(self) -> None:
        """Wait until one more batch is running."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


Make = Callable[..., Batcher[int, int]]


@pytest.fixture
def tower() -> Tower:
    """A tower whose gate is open."""
    return Tower()


@pytest_asyncio.fixture
async def make(tower: Tower) -> AsyncIterator[Make]:
    """A maker of batchers over `tower`; the options are those of `Batcher`."""
    with ThreadPoolExecutor(1) as executor:

        def build(**options: object) -> Batcher[int, int]:
            given_options = {"name": "number", "bounds": FOUR, **options}
            return Batcher(tower.run, executor, **given_options)  # type: ignore[arg-type]

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


async def test_an_idle_batcher_starts_at_once(make: Make, tower: Tower) -> None:
    """A lone entry runs alone, without waiting for company."""
    assert await make().submit(21, NOW) == 42
    assert tower.batches == [[21]]


async def test_a_busy_batcher_gathers_what_arrives(make: Make, tower: Tower) -> None:
    """Entries that arrive during a batch share the next ones, up to the largest size, in order."""
    batcher = make()
    first = await held(batcher, tower)
    tasks = queue_up(batcher, 1, 2, 3, 4, 5, 6)
    await asyncio.sleep(0)
    tower.gate.set()
    assert await asyncio.gather(first, *tasks) == [0, 2, 4, 6, 8, 10, 12]
    assert tower.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_interactive_entries_go_ahead_of_bulk(make: Make, tower: Tower) -> None:
    """A person's entry overtakes bulk entries that were there before it."""
    batcher = make(bounds=BatchBounds(2, 2))
    first = await held(batcher, tower)
    bulk = queue_up(batcher, 1, 2, 3, urgency=BULK)
    await asyncio.sleep(0)
    person = queue_up(batcher, 9)
    await asyncio.sleep(0)
    tower.gate.set()
    await asyncio.gather(first, *bulk, *person)
    assert tower.batches == [[0], [9, 1], [2, 3]]


async def test_bulk_entries_age(make: Make, tower: Tower) -> None:
    """A bulk entry that has waited too long goes first."""
    batcher = make(bounds=BatchBounds(1, 1), bulk_wait_seconds_max=0.0)
    first = await held(batcher, tower)
    tasks = [*queue_up(batcher, 1, urgency=BULK), *queue_up(batcher, 9)]
    await asyncio.sleep(0)
    tower.gate.set()
    await asyncio.gather(first, *tasks)
    assert tower.batches == [[0], [1], [9]]


async def test_old_bulk_entries_do_not_starve_people(make: Make, tower: Tower) -> None:
    """Where every bulk entry is over age, interactive entries still get every other batch."""
    batcher = make(bounds=BatchBounds(1, 1), bulk_wait_seconds_max=0.0)
    first = await held(batcher, tower)
    tasks = [*queue_up(batcher, 1, 2, 3, urgency=BULK), *queue_up(batcher, 8, 9)]
    await asyncio.sleep(0)
    tower.gate.set()
    await asyncio.gather(first, *tasks)
    assert tower.batches == [[0], [1], [8], [2], [9], [3]]


async def test_clients_take_turns(make: Make, tower: Tower) -> None:
    """One client's many entries do not hold up another's few, whoever came first."""
    batcher = make(bounds=BatchBounds(2, 2))
    first = await held(batcher, tower)
    tasks = queue_up(batcher, 1, 2, 3, 4, urgency=Urgency(client="greedy"))
    await asyncio.sleep(0)
    tasks += queue_up(batcher, 10, 11, urgency=Urgency(client="modest"))
    await asyncio.sleep(0)
    tower.gate.set()
    await asyncio.gather(first, *tasks)
    assert tower.batches == [[0], [1, 10], [2, 11], [3, 4]]


async def test_whoever_was_served_goes_to_the_end_of_the_circle(make: Make, tower: Tower) -> None:
    """With more clients than fit into a batch, each is served once before any is served twice."""
    batcher = make(bounds=BatchBounds(2, 2))
    first = await held(batcher, tower)
    tasks = []
    for client in ("a", "b", "c"):
        start = 10 * (ord(client) - ord("a") + 1)
        tasks += queue_up(batcher, start, start + 1, urgency=Urgency(client=client))
    await asyncio.sleep(0)
    tower.gate.set()
    await asyncio.gather(first, *tasks)
    assert tower.batches == [[0], [10, 20], [30, 11], [21, 31]]


async def test_padding_is_bounded(make: Make, tower: Tower) -> None:
    """A long entry does not make short ones as long as itself; each is run, the one whose turn it is first."""
    batcher = make(bounds=BatchBounds(4, 100, padding_max=3), length=lambda number: number)
    first = await held(batcher, tower)
    tasks = queue_up(batcher, 5, 40, 6, 7, 41)
    await asyncio.sleep(0)
    tower.gate.set()
    await asyncio.gather(first, *tasks)
    assert tower.batches == [[0], [5, 6, 7], [40, 41]]


async def test_an_entry_larger_than_any_batch_runs_alone(make: Make, tower: Tower) -> None:
    """The bound on units never keeps an entry from running."""
    batcher = make(bounds=BatchBounds(4, 8, padding_max=8), length=lambda number: number)
    assert await batcher.submit(20, NOW) == 40


async def test_a_bad_entry_fails_alone(make: Make, tower: Tower) -> None:
    """One bad request does not fail its batch (LitServe #340): only it gets the error, its neighbours are answered."""
    batcher = make()
    first = await held(batcher, tower)
    tasks = queue_up(batcher, 1, 13, 3)
    await asyncio.sleep(0)
    tower.gate.set()
    one, bad, three = await asyncio.gather(*tasks, return_exceptions=True)
    assert (one, three) == (2, 6)
    assert isinstance(bad, ValueError)
    assert await first == 0


async def test_a_failed_batch_runs_nothing_again_for_nobody() -> None:
    """Entries that were given up, or whose time ran out, while their batch failed are not run one by one."""
    runs: list[list[int]] = []
    loop = asyncio.get_running_loop()

    def run(numbers: list[int]) -> list[int]:
        runs.append(numbers)
        if len(numbers) > 1:
            loop.call_soon_threadsafe(tasks[1].cancel)
            time.sleep(0.1)
            raise ValueError("together they fail")
        return numbers

    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher[int, int](run, executor, name="number", bounds=FOUR)
        tasks = [*queue_up(batcher, 1, 2), *queue_up(batcher, 3, urgency=Urgency(time.monotonic() + 0.05))]
        one, gone, late = await asyncio.gather(*tasks, return_exceptions=True)
    assert one == 1
    assert isinstance(gone, asyncio.CancelledError)
    assert isinstance(late, DeadlineExceededError)
    assert runs == [[1, 2, 3], [1]]


async def test_a_tower_that_ends_its_thread_does_not(make: Make, tower: Tower) -> None:
    """No worker is ever lost (clip-as-service #850): whatever a batch raises, the next one is answered."""
    batcher = make()
    with pytest.raises(RuntimeError, match="SystemExit"):
        await batcher.submit(66, NOW)
    assert await batcher.submit(1, NOW) == 2


async def test_cancelled_entries_are_never_run(make: Make, tower: Tower) -> None:
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


@pytest.mark.parametrize(("left_seconds", "alone_seconds"), [(-1.0, 0.0), (1.0, 2.0)])
async def test_entries_that_come_too_late_are_refused(
    make: Make, tower: Tower, left_seconds: float, alone_seconds: float
) -> None:
    """An entry whose deadline has passed, or must pass while it runs, is told so and does not run."""
    batcher = make(pace=Pace(alone_seconds))
    first = await held(batcher, tower)
    (late,) = queue_up(batcher, 1, urgency=Urgency(deadline=time.monotonic() + left_seconds))
    await asyncio.sleep(0)
    tower.gate.set()
    with pytest.raises(DeadlineExceededError):
        await late
    await first
    assert tower.batches == [[0]]


async def test_close_finishes_what_is_queued(make: Make, tower: Tower) -> None:
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


async def test_nobody_hangs_when_the_batcher_is_cancelled(make: Make, tower: Tower) -> None:
    """Entries in the running batch and behind it are told that the server stops."""
    batcher = make()
    tasks = [await held(batcher, tower), *queue_up(batcher, 1)]
    await asyncio.sleep(0)
    (runner,) = (task for task in asyncio.all_tasks() if task.get_name() == "number batcher")
    runner.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [UnavailableError] * 2
    tower.gate.set()


async def test_a_tower_that_loses_outputs_fails_its_entries() -> None:
    """A wrong number of outputs is an error for every entry, never a hang or a mix-up."""
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher[int, int](lambda _: [], executor, name="lossy", bounds=FOUR)
        with pytest.raises(RuntimeError, match="This is a bug"):
            await batcher.submit(1, NOW)


async def test_batches_are_counted_with_their_padding(make: Make, tower: Tower) -> None:
    """Sizes, waits and units of work; what is computed for shorter neighbours is padding."""
    batcher = make(bounds=BatchBounds(4, 100, padding_max=100), length=lambda number: number)
    first = await held(batcher, tower)
    tasks = queue_up(batcher, 3, 5, 10)
    await asyncio.sleep(0)
    tower.gate.set()
    await asyncio.gather(first, *tasks)
    figures = batcher.figures
    assert (figures.sizes.sum, sum(figures.sizes.counts())) == (4.0, 2)
    assert (figures.units.value, figures.padding_units.value) == (30, 12)
    assert sum(figures.wait_seconds.counts()) == 4
    assert sum(figures.run_seconds.counts()) == 2
    assert figures.failures.value == 0


async def test_an_input_of_a_failed_batch_waits_once(make: Make, tower: Tower) -> None:
    """It runs again alone, which counts as a batch and not as another wait."""
    batcher = make()
    first = await held(batcher, tower)
    tasks = queue_up(batcher, 1, 13)
    await asyncio.sleep(0)
    tower.gate.set()
    await asyncio.gather(first, *tasks, return_exceptions=True)
    assert sum(batcher.figures.wait_seconds.counts()) == 3
    assert batcher.figures.failures.value == 2
    assert batcher.figures.sizes.counts()[0] == 2


async def test_batches_belong_to_no_request(make: Make, tower: Tower) -> None:
    """What a context says of the request that came first is not said of all that share the batch."""
    request = contextvars.ContextVar("request", default="")
    seen: list[str] = []
    pace = Pace()
    pace.observe = lambda *_: seen.append(request.get())  # type: ignore[method-assign]
    request.set("first")
    await make(pace=pace).submit(1, NOW)
    assert seen == [""]


class Clients:
    """Submits random numbers for random clients, some of them cancelled."""

    def __init__(self, batcher: Batcher[int, int]) -> None:
        self._batcher = batcher

    async def run(self, work: list[tuple[int, str, bool, bool]]) -> list[int | BaseException]:
        """Submit every number of (number, client, bulk, cancelled) and return the outcomes."""
        tasks = []
        for number, client, bulk, cancelled in work:
            (task,) = queue_up(self._batcher, number, urgency=Urgency(client=client, bulk=bulk))
            await asyncio.sleep(0)
            if cancelled:
                task.cancel()
            tasks.append(task)
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)


@settings(max_examples=60, deadline=None)
@given(
    work=st.lists(
        st.tuples(st.sampled_from([1, 2, 5, 8, 13, 40]), st.sampled_from("abc"), st.booleans(), st.booleans()),
        max_size=40,
    )
)
def test_whatever_comes_everybody_is_answered(work: list[tuple[int, str, bool, bool]]) -> None:
    """Each entry gets its own output, its own error or its cancellation; no batch breaks a bound."""
    bounds = BatchBounds(4, 60, padding_max=10)
    tower = Tower()

    async def scenario() -> list[int | BaseException]:
        with ThreadPoolExecutor(1) as executor:
            return await Clients(
                Batcher(tower.run, executor, name="number", bounds=bounds, length=lambda number: number)
            ).run(work)

    for (number, _, _, cancelled), outcome in zip(work, asyncio.run(scenario()), strict=True):
        if isinstance(outcome, asyncio.CancelledError):
            assert cancelled
        elif number == 13:
            assert isinstance(outcome, ValueError)
        else:
            assert outcome == 2 * number
    for batch in tower.batches:
        assert BatchShape(len(batch), max(batch), sum(batch)).fits(bounds)


def test_the_pace_follows_what_is_observed() -> None:
    """A machine that is busy with other things makes predictions longer, and back; nothing known predicts nothing."""
    pace = Pace(0.01, 0.001)
    assert pace.seconds(10) == pytest.approx(0.02)
    for _ in range(50):
        pace.observe(10, 0.06)
    assert pace.seconds(20) == pytest.approx(0.09, rel=0.01)
    assert pace.least_seconds(20) == pytest.approx(0.03)
    unknown = Pace()
    unknown.observe(1, 5.0)
    assert unknown.seconds(1) == 0.0


def test_few_inputs_are_interactive_and_many_are_a_job() -> None:
    """A request of more inputs than a person waits for is bulk; what is bulk stays so."""
    assert not Urgency().for_inputs(16).bulk
    assert Urgency(client="a").for_inputs(17) == Urgency(client="a", bulk=True)
    assert BULK.for_inputs(1).bulk
    assert Urgency().remaining_seconds() == math.inf
