"""Who comes in, who waits and who is refused: the door, its gate, and the rate that says when to come back."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_search_server.encoder.batching import BatchBounds, Batcher, Door, DoorBounds, Gate, Pace, Urgency
from clip_search_server.encoder.batching.drain import DrainRate
from clip_search_server.errors import DeadlineExceededError, ResourceExhaustedError
from tests.unit.encoder.virtual_time import VirtualExecutor, run_in_virtual_time

NOW = Urgency()
BULK = Urgency(bulk=True)


def door(**changes: int) -> Door:
    """A door for four inputs of 100 bytes together, and two of bulk work."""
    bounds = {"items_max": 4, "bytes_max": 100, "bulk_items_max": 2, "bulk_bytes_max": 50, "backlog_min": 1, **changes}
    return Door(DoorBounds(**bounds), name="number")


class Guests:
    """Callers inside, who leave when told."""

    def __init__(self, entered: Door) -> None:
        self.door = entered
        self._stay = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def enter(self, count: int, size_bytes: int = 1, urgency: Urgency = NOW) -> list[asyncio.Task[None]]:
        """Let `count` callers try to come in."""
        tasks = [asyncio.create_task(self._visit(size_bytes, urgency)) for _ in range(count)]
        self._tasks += tasks
        for _ in range(3):
            await asyncio.sleep(0)
        return tasks

    async def _visit(self, size_bytes: int, urgency: Urgency) -> None:
        async with self.door.admitted(size_bytes, urgency):
            await self._stay.wait()

    async def leave(self) -> None:
        """Let everybody go, those who still wait outside as well."""
        self._stay.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def guests(entered: Door | None = None) -> AsyncIterator[Guests]:
    """Callers of a door, who all leave at the end; then nothing is inside any more."""
    group = Guests(entered or door())
    try:
        yield group
    finally:
        await group.leave()
        assert (group.door.items, group.door.bytes) == (0, 0)


async def test_a_full_queue_refuses_at_once() -> None:
    """One input more than there is room for is refused, with a time to come back."""
    async with guests(door(items_max=4)) as inside:
        for client in "abcd":
            await inside.enter(1, urgency=Urgency(client=client))
        (refused,) = await inside.enter(1, urgency=Urgency(client="e"))
        error = refused.exception()
        assert isinstance(error, ResourceExhaustedError)
        assert (error.retry_after_seconds or 0) > 0


async def test_memory_is_bounded_whatever_is_sent() -> None:
    """Bytes count as inputs do (TEI #156, Infinity #517: 40 GB in use); a lone input may be larger than the bound."""
    async with guests() as inside:
        await inside.enter(2, size_bytes=50)
        (refused,) = await inside.enter(1, size_bytes=1, urgency=Urgency(client="other"))
        assert isinstance(refused.exception(), ResourceExhaustedError)
    async with guests() as inside:
        (alone,) = await inside.enter(1, size_bytes=1_000)
        assert not alone.done()


async def test_one_client_leaves_room_for_others() -> None:
    """A client that sends without end is refused while others still come in."""
    async with guests(door(items_max=100)) as inside:
        tasks = await inside.enter(200, urgency=Urgency(client="greedy"), size_bytes=0)
        assert sum(not task.done() for task in tasks) == 75
        (other,) = await inside.enter(1, urgency=Urgency(client="modest"), size_bytes=0)
        assert not other.done()


async def test_bulk_work_waits_and_takes_no_room_from_people() -> None:
    """Bulk inputs beyond their part wait outside, and a person still comes in."""
    async with guests() as inside:
        bulk = await inside.enter(10, urgency=BULK)
        assert inside.door.items == 2
        (person,) = await inside.enter(1)
        assert inside.door.items == 3
        assert not any(task.done() for task in (*bulk, person))


async def test_a_deadline_that_has_passed_is_told_at_the_door() -> None:
    """Nothing is spent on it, bulk or not."""
    for urgency in (Urgency(deadline=time.monotonic() - 1), Urgency(deadline=time.monotonic() - 1, bulk=True)):
        with pytest.raises(DeadlineExceededError):
            async with door().admitted(1, urgency):
                pytest.fail("nobody should come in")


async def test_bulk_work_waits_no_longer_than_its_deadline() -> None:
    """Waiting for room ends with the deadline, and what waited leaves no trace."""
    async with guests() as inside:
        await inside.enter(2, urgency=BULK)
        with pytest.raises(DeadlineExceededError):
            async with inside.door.admitted(1, Urgency(deadline=time.monotonic() + 0.02, bulk=True)):
                pytest.fail("there is no room")


async def test_what_cannot_be_done_in_time_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ten departures a second and twenty ahead, one second is too short and ten are enough."""
    queue = door(items_max=100, bytes_max=10_000)
    monkeypatch.setattr(DrainRate, "per_second", property(lambda _: 10.0))
    async with guests(queue) as inside:
        await inside.enter(20)
        soon, later = Urgency(deadline=time.monotonic() + 1), Urgency(deadline=time.monotonic() + 10)
        (refused,) = await inside.enter(1, urgency=soon)
        (accepted,) = await inside.enter(1, urgency=later)
        error = refused.exception()
        assert isinstance(error, ResourceExhaustedError)
        assert error.retry_after_seconds == pytest.approx(1.3, abs=0.1)  # 2 s of queue and some, 1 s of time
        assert not accepted.done()


async def test_a_client_waits_for_its_own_turn_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is ahead of a newcomer is one input of each other client, however many the others have."""
    queue = door(items_max=100, bytes_max=10_000)
    monkeypatch.setattr(DrainRate, "per_second", property(lambda _: 10.0))
    async with guests(queue) as inside:
        await inside.enter(50, urgency=Urgency(client="greedy"))
        (newcomer,) = await inside.enter(1, urgency=Urgency(deadline=time.monotonic() + 1, client="new"))
        assert not newcomer.done()


async def test_nobody_waits_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a deadline too a person is refused where the queue takes longer than allowed."""
    bounds = DoorBounds(100, 10_000, 2, 50, 1, queue_seconds_max=1)
    monkeypatch.setattr(DrainRate, "per_second", property(lambda _: 10.0))
    async with guests(Door(bounds, name="number")) as inside:
        await inside.enter(5)
        (accepted,) = await inside.enter(1)
        assert not accepted.done()
        await inside.enter(5)
        (refused,) = await inside.enter(1)
        assert isinstance(refused.exception(), ResourceExhaustedError)


START_SECONDS, UNIT_SECONDS, BATCH = 0.010, 0.005, 8
CAPACITY = BATCH / (START_SECONDS + BATCH * UNIT_SECONDS)


class Offered:
    """A tower behind a door, and callers who come at a rate and go away at their deadline."""

    def __init__(self, deadline_seconds: float) -> None:
        pace = Pace(START_SECONDS, UNIT_SECONDS)
        executor = VirtualExecutor(lambda numbers: START_SECONDS + UNIT_SECONDS * len(numbers))
        bounds = BatchBounds(BATCH, BATCH)
        self._batcher = Batcher[int, int](list, executor, name="number", bounds=bounds, pace=pace)
        door_bounds = DoorBounds(1_000, 10**9, 16, 10**9, BATCH)
        self._door = Door(door_bounds, name="number", batch_seconds=lambda: pace.seconds(BATCH))
        self._deadline_seconds = deadline_seconds
        self.answered: list[float] = []
        self.late = 0
        self.refused: list[float] = []

    async def come(self, rate_per_second: float, seconds: float) -> None:
        """Let callers come for so long, each of one of 16 clients, and wait until all are gone."""
        tasks = []
        for number in range(round(rate_per_second * seconds)):
            tasks.append(asyncio.create_task(self._ask(f"{number % 16}")))
            await asyncio.sleep(1 / rate_per_second)
        await asyncio.gather(*tasks)

    async def _ask(self, client: str) -> None:
        started = time.monotonic()
        urgency = Urgency(deadline=started + self._deadline_seconds, client=client)
        try:
            async with asyncio.timeout_at(urgency.deadline), self._door.admitted(1, urgency):
                await self._batcher.submit(1, urgency)
            self.answered.append(time.monotonic() - started)
        except ResourceExhaustedError:
            self.refused.append(time.monotonic() - started)
        except (DeadlineExceededError, TimeoutError):
            self.late += 1


@pytest.mark.parametrize("deadline_seconds", [0.3, 1.0, 5.0])
def test_an_overload_costs_nothing_of_what_can_be_done(
    monkeypatch: pytest.MonkeyPatch, deadline_seconds: float
) -> None:
    """Of four times too much 90 % of the capacity is answered in time; few hope in vain; the rest is refused."""
    seconds = 20.0

    async def scenario() -> Offered:
        offered = Offered(deadline_seconds)
        await offered.come(4 * CAPACITY, seconds)
        return offered

    offered = run_in_virtual_time(monkeypatch, scenario)
    assert len(offered.answered) > 0.9 * CAPACITY * seconds
    assert offered.late < 0.1 * len(offered.answered)
    assert max(offered.refused) < 0.01


def test_after_an_overload_everything_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds after it, requests take what they took before, and none is refused."""

    async def scenario() -> tuple[list[float], list[float], int]:
        offered = Offered(1.0)
        await offered.come(0.3 * CAPACITY, 5)
        before = offered.answered.copy()
        await offered.come(4 * CAPACITY, 10)
        await asyncio.sleep(2)
        offered.answered.clear()
        offered.refused.clear()
        await offered.come(0.3 * CAPACITY, 5)
        return before, offered.answered, len(offered.refused)

    before, after, refused = run_in_virtual_time(monkeypatch, scenario)
    assert refused == 0
    assert max(after) <= max(before) * 1.05


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def drained(rate_per_second: float, *, inside: int = 20, seconds: float = 3.0) -> tuple[DrainRate, Clock]:
    """A rate that was observed for some time with a backlog."""
    clock = Clock()
    rate = DrainRate(backlog_min=4, clock=clock)
    for _ in range(inside):
        rate.enter()
    for _ in range(round(rate_per_second * seconds)):
        clock.now += 1 / rate_per_second
        rate.leave(finished=True)
        rate.enter()
    return rate, clock


@pytest.mark.parametrize("rate_per_second", [5.0, 50.0, 500.0])
def test_the_rate_is_that_of_departures(rate_per_second: float) -> None:
    """It is measured with a backlog, and says how long a queue takes."""
    rate, _ = drained(rate_per_second)
    assert rate.per_second == pytest.approx(rate_per_second, rel=0.05)
    assert rate.seconds_for(10) == pytest.approx(10 / rate_per_second, rel=0.05)


def test_a_lone_request_says_nothing_of_the_rate() -> None:
    """Without a backlog no rate is known, so nobody is refused because one request took long."""
    rate, _ = drained(2.0, inside=3)
    assert rate.per_second is None
    assert rate.seconds_for(1_000) == 0.0


def test_work_given_up_is_not_drained() -> None:
    """Cancelled entries leave too, but nothing was done for them."""
    rate, clock = drained(10.0)
    before = rate.per_second
    for _ in range(15):
        rate.leave(finished=False)
    clock.now += 0.001
    assert rate.per_second == pytest.approx(before, rel=0.01)


def test_the_refused_come_back_one_after_another() -> None:
    """The time to come back follows from the rate, each later than the one before; after a pause they start anew."""
    rate, clock = drained(10.0)
    first, second, third = (rate.pushback_seconds(5) for _ in range(3))
    assert first == pytest.approx(0.5, rel=0.1)
    assert second - first == pytest.approx(0.1, rel=0.1)
    assert third - second == pytest.approx(0.1, rel=0.1)
    assert max(rate.pushback_seconds(5) for _ in range(1_000)) <= 10
    clock.now += 20
    assert rate.pushback_seconds(5) < 5


async def test_clients_take_turns_at_the_gate() -> None:
    """One with many things waiting does not hold up another with one."""
    gate = Gate(items_max=1, bytes_max=100)
    order: list[str] = []

    async def pass_through(client: str) -> None:
        async with gate.room(1, Urgency(client=client)):
            order.append(client)

    await gate.enter(1, NOW)
    tasks = [asyncio.create_task(pass_through(client)) for client in "aaabbc"]
    await asyncio.sleep(0)
    gate.leave(1)
    await asyncio.gather(*tasks)
    assert "".join(order) == "abcaba"


async def test_a_large_thing_is_not_overtaken() -> None:
    """It waits until it fits, and small ones behind it wait with it, or it would never come in."""
    gate = Gate(items_max=10, bytes_max=10)
    await gate.enter(5, NOW)
    large = asyncio.create_task(gate.enter(50, NOW))
    await asyncio.sleep(0)
    small = asyncio.create_task(gate.enter(1, NOW))
    await asyncio.sleep(0)
    assert not large.done()
    assert not small.done()
    gate.leave(5)
    await large
    assert not small.done()
    gate.leave(50)
    await small


async def test_giving_up_at_the_moment_of_being_let_in_leaves_no_trace() -> None:
    """Room that was granted to somebody who is cancelled in the same instant goes to the next."""
    gate = Gate(items_max=1, bytes_max=10)
    await gate.enter(1, NOW)
    gone, stays = (asyncio.create_task(gate.enter(1, NOW)) for _ in range(2))
    await asyncio.sleep(0)
    gate.leave(1)
    gone.cancel()
    await stays
    assert (gate.items, gate.bytes) == (1, 1)


@given(
    visits=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from("abc"), st.sampled_from([0, 1, 2]), st.booleans()), max_size=25
    )
)
def test_the_gate_keeps_its_bounds(visits: list[tuple[int, str, int, bool]]) -> None:
    """Whatever comes, stays and is cancelled: never more inside than allowed, all let in at last, nothing left over."""

    async def scenario() -> None:
        gate = Gate(items_max=3, bytes_max=20)
        inside: list[int] = []

        async def visit(size_bytes: int, client: str, steps: int) -> None:
            async with gate.room(size_bytes, Urgency(client=client)):
                inside.append(size_bytes)
                assert len(inside) <= 3
                assert len(inside) == 1 or sum(inside) <= 20
                for _ in range(steps):
                    await asyncio.sleep(0)
                inside.remove(size_bytes)

        tasks = []
        for size_bytes, client, steps, cancelled in visits:
            tasks.append(asyncio.create_task(visit(size_bytes, client, steps)))
            await asyncio.sleep(0)
            # Only those who wait outside: the visit itself is not written to be cancelled.
            if cancelled and len(inside) == 3:
                tasks[-1].cancel()
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert all(outcome is None or isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes
        assert (gate.items, gate.bytes) == (0, 0)

    asyncio.run(scenario())
