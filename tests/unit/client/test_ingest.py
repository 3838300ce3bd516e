import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status

from clip_search.async_client import AsyncClient
from clip_search.client import Client
from clip_search.contents import Image, Item
from clip_search.errors import (
    ClipSearchError,
    ConnectionLostError,
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    UnexpectedStatusError,
    UnreachableError,
)
from clip_search.ingest import IngestBounds, _Window
from clip_search.ingest_state import IngestState
from clip_search.results import ItemOutcome
from clip_search.resuming import ResumePolicy
from clip_search.v1 import item_pb2
from tests.unit.client.fake_server import FakeServer, exhausted, invalid, refused, stored

WINDOW = IngestBounds().items_in_flight_max
FAST = ResumePolicy(backoff_initial_seconds=0.01, backoff_seconds_max=0.05)


def items(count: int, size_bytes: int = 10) -> Iterator[Item]:
    """Make items to send."""
    for number in range(count):
        yield Item(f"item-{number}", Image(bytes(size_bytes)))


@dataclass
class Told:
    """What a caller was told: the outcomes, the error at the end if there was one, and how much had no outcome."""

    outcomes: list[ItemOutcome] = field(default_factory=list)
    error: Exception | None = None
    unanswered: int = 0


class Send(Protocol):
    """Ingests with one of the clients."""

    def __call__(
        self,
        address: str,
        source: Iterable[Item],
        bounds: IngestBounds | None = None,
        *,
        resume: ResumePolicy | None = None,
    ) -> Told:
        """Send items and collect what the caller is told."""


def send_blocking(
    address: str, source: Iterable[Item], bounds: IngestBounds | None = None, *, resume: ResumePolicy | None = None
) -> Told:
    """Send with `Client`."""
    told = Told()
    with Client(address, timeout_seconds=60, resume=resume) as client, client.ingest(source, bounds) as stream:
        try:
            told.outcomes.extend(stream)
        except Exception as error:  # noqa: BLE001  # looked at by the test
            told.error = error
        told.unanswered = stream.in_flight
    return told


def send_awaiting(
    address: str, source: Iterable[Item], bounds: IngestBounds | None = None, *, resume: ResumePolicy | None = None
) -> Told:
    """Send with `AsyncClient`."""
    told = Told()

    async def send() -> None:
        async with (
            AsyncClient(address, timeout_seconds=60, resume=resume) as client,
            client.ingest(source, bounds) as stream,
        ):
            try:
                async for outcome in stream:
                    told.outcomes.append(outcome)
            except Exception as error:  # noqa: BLE001  # looked at by the test
                told.error = error
            told.unanswered = stream.in_flight

    asyncio.run(send())
    return told


@pytest.fixture(params=[send_blocking, send_awaiting], ids=["sync", "async"])
def send(request: pytest.FixtureRequest) -> Send:
    """Both clients, one after the other."""
    chosen: Send = request.param
    return chosen


def ingest(send: Send, server: FakeServer, source: Iterable[Item], bounds: IngestBounds | None = None) -> list[Any]:
    """Send items, expect no error, and give the outcomes."""
    told = send(server.address, source, bounds)
    assert told.error is None
    assert told.unanswered == 0
    return told.outcomes


def test_every_item_gets_its_outcome(server: FakeServer, send: Send) -> None:
    """A stream longer than the window is stored whole, each item answered once."""
    outcomes = ingest(send, server, items(500))
    assert [outcome.index for outcome in outcomes] == list(range(500))
    assert [outcome.id for outcome in outcomes] == [f"item-{number}" for number in range(500)]
    assert all(outcome.error is None and not outcome.replaced for outcome in outcomes)
    assert len(server.items) == 500


def test_answers_may_come_in_any_order(server: FakeServer, send: Send) -> None:
    """Outcomes are told apart by their index."""

    def answer_backwards(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        received = list(requests)
        for sequence, request in enumerate(reversed(received), 1):
            yield stored(request, sequence)

    server.ingest_behaviour = answer_backwards
    outcomes = ingest(send, server, items(20))
    assert [outcome.index for outcome in outcomes] == list(reversed(range(20)))
    assert all(outcome.id == f"item-{outcome.index}" for outcome in outcomes)


def test_one_bad_item_does_not_fail_its_neighbours(server: FakeServer, send: Send) -> None:
    """Errors of items are outcomes, with their details, and the stream goes on."""

    def refuse_some(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            if request.index == 1:
                yield refused(request, invalid("item.content.image: no picture", "item.content.image", "no picture"))
            elif request.index == 2:
                yield refused(request, exhausted("the disk is full", retry_seconds=2))
            else:
                yield stored(request, 5, replaced=True)

    server.ingest_behaviour = refuse_some
    first, second, third, fourth = ingest(send, server, items(4))
    assert isinstance(second.error, InvalidArgumentError)
    assert second.sequence is None
    assert second.error.violations[0].field == "item.content.image"
    assert isinstance(third.error, ResourceExhaustedError)
    assert third.error.retry_after_seconds == 2
    assert (first.error, first.sequence, first.replaced) == (None, 5, True)
    assert fourth.error is None


@pytest.mark.parametrize(
    ("size_bytes", "bounds", "expected"),
    [
        (10, IngestBounds(items_in_flight_max=4), 4),
        (1_000, IngestBounds(bytes_in_flight_max=3_500), 3),
        (5_000, IngestBounds(bytes_in_flight_max=3_500), 1),
    ],
    ids=["items", "bytes", "larger than the bound"],
)
def test_no_more_is_in_flight_than_the_bounds_allow(
    server: FakeServer, send: Send, size_bytes: int, bounds: IngestBounds, expected: int
) -> None:
    """Items are drawn from the source only as answers make room; one too large for the bound travels alone."""
    drawn = 0
    answered = 0
    most_in_flight = 0

    def counted() -> Iterator[Item]:
        nonlocal drawn, most_in_flight
        for item in items(20, size_bytes):
            # The item drawn now waits for room; those before it are answered or in flight.
            most_in_flight = max(most_in_flight, drawn - answered)
            drawn += 1
            yield item

    def answer_when_full(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        nonlocal answered
        held: list[Any] = []
        for request in requests:
            held.append(request)
            if len(held) == expected:  # with less room this would wait for ever, and the deadline end it
                for each in held:
                    answered += 1
                    yield stored(each, 1)
                held = []
        for each in held:
            yield stored(each, 1)

    server.ingest_behaviour = answer_when_full
    assert len(ingest(send, server, counted(), bounds)) == 20
    assert most_in_flight <= expected


def test_a_server_lost_midway_is_an_error_after_the_answers_that_came(server: FakeServer, send: Send) -> None:
    """What was acknowledged before the stream broke is known; the rest is counted."""

    def break_off(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            if request.index < 5:
                yield stored(request, 1)
            if request.index == WINDOW + 4:  # sent only after the five answers have been read
                unavailable = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="stopping")
                context.abort_with_status(rpc_status.to_status(unavailable))

    server.ingest_behaviour = break_off
    told = send(server.address, items(1_000))
    assert isinstance(told.error, UnavailableError)
    assert "stopping" in str(told.error)
    assert [outcome.index for outcome in told.outcomes] == [0, 1, 2, 3, 4]
    assert told.unanswered == WINDOW


def test_a_server_that_vanishes_is_a_lost_connection(server: FakeServer, send: Send) -> None:
    """A process that dies says nothing; the caller hears that the connection is lost."""

    def vanish(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        yield stored(next(requests), 1)
        for request in requests:
            if request.index == WINDOW:  # sent only after the answer has been read
                threading.Thread(target=server.stop).start()

    server.ingest_behaviour = vanish
    told = send(server.address, items(1_000))
    assert isinstance(told.error, ConnectionLostError)
    assert "lost the connection" in str(told.error)
    assert len(told.outcomes) == 1


def test_a_stream_that_ends_early_is_an_error(server: FakeServer, send: Send) -> None:
    """A server that says goodbye with items unanswered has not stored them, whatever its status."""

    def answer_one(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        received = list(requests)
        yield stored(received[0], 1)

    server.ingest_behaviour = answer_one
    told = send(server.address, items(3))
    assert isinstance(told.error, ConnectionLostError)
    assert "2 items unanswered" in str(told.error)


def test_a_server_that_answers_nothing_is_given_up(server: FakeServer, send: Send) -> None:
    """A stream on which nothing moves ends, and says for how long it waited."""
    release = threading.Event()

    def say_nothing(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        release.wait(timeout=60)
        yield from ()

    server.ingest_behaviour = say_nothing
    told = send(server.address, items(3), IngestBounds(idle_seconds_max=0.2))
    release.set()
    assert isinstance(told.error, DeadlineExceededError)
    assert re.fullmatch(r"the server answered none of \d items for 0\.2 s", str(told.error))


def window(bounds: IngestBounds) -> _Window:
    """Make what the threads of a stream share."""
    return _Window(IngestState(bounds, "", ""), bounds.idle_seconds_max)


def test_only_items_in_flight_can_stall() -> None:
    """A source may take as long as it likes: the watchdog's clock runs only while answers are owed and waited for."""
    shared = window(IngestBounds(idle_seconds_max=0.05))
    verdicts: list[bool] = []
    watchdog = threading.Thread(target=lambda: verdicts.append(shared.wait_for_stall()))
    watchdog.start()
    shared.await_answer()
    watchdog.join(timeout=0.3)
    assert watchdog.is_alive()
    assert shared.admit(item_pb2.Item(id="a"))
    watchdog.join(timeout=30)
    assert verdicts == [True]


def test_a_slow_caller_is_no_stall() -> None:
    """The clock stands while the caller works on an outcome instead of waiting for the next."""
    shared = window(IngestBounds(idle_seconds_max=0.05))
    assert shared.admit(item_pb2.Item(id="a"))
    verdicts: list[bool] = []
    watchdog = threading.Thread(target=lambda: verdicts.append(shared.wait_for_stall()))
    watchdog.start()
    watchdog.join(timeout=0.3)
    assert watchdog.is_alive()
    shared.close()
    watchdog.join(timeout=30)
    assert verdicts == [False]


def test_closing_ends_the_watch_the_pause_and_the_wait_for_room() -> None:
    """Nobody hangs on a stream that is over."""
    shared = window(IngestBounds(items_in_flight_max=1))
    assert shared.admit(item_pb2.Item(id="a"))
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda: answers.append(shared.admit(item_pb2.Item(id="b")))),
        threading.Thread(target=lambda: answers.append(shared.wait_for_stall())),
        threading.Thread(target=lambda: answers.append(shared.pause(60))),
    ]
    for thread in threads:
        thread.start()
    shared.close()
    for thread in threads:
        thread.join(timeout=30)
    assert answers == [False, False, False]


def test_a_source_that_fails_raises_after_the_items_before_it(server: FakeServer, send: Send) -> None:
    """What was drawn before the failure is still completed."""

    def failing() -> Iterator[Item]:
        yield from items(3)
        raise LookupError("no more")

    told = send(server.address, failing())
    assert isinstance(told.error, LookupError)
    assert len(told.outcomes) == 3


def test_an_answer_to_nothing_is_an_error(server: FakeServer, send: Send) -> None:
    """An index that was not sent, or was answered before, is a bug of the server and never counted."""

    def answer_twice(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            yield stored(request, 1)
            yield stored(request, 1)

    server.ingest_behaviour = answer_twice
    told = send(server.address, items(3), resume=FAST)
    assert isinstance(told.error, UnexpectedStatusError)
    assert "which was not in flight" in str(told.error)


def test_leaving_early_ends_the_stream(server: FakeServer, client: Client) -> None:
    """A caller that stops reading leaves no thread behind and draws no further items."""
    drawn = 0

    def counted() -> Iterator[Item]:
        nonlocal drawn
        for item in items(100_000):
            drawn += 1
            yield item

    with client.ingest(counted()) as outcomes:
        for outcome in outcomes:
            if outcome.index == 10:
                break
    outcomes.close()
    assert drawn < 1_000
    with pytest.raises(RuntimeError, match="only once"):
        next(iter(outcomes))


def test_no_items_are_no_error(server: FakeServer, send: Send) -> None:
    """An empty source ends at once."""
    assert ingest(send, server, items(0)) == []


def test_a_closed_client_is_an_error_not_a_hang(server: FakeServer) -> None:
    """Closing the client during a stream ends it."""
    client = Client(server.address)

    def close_midway(outcome: ItemOutcome) -> None:
        if outcome.index == 3:
            client.close()

    with client.ingest(items(100_000)) as outcomes, pytest.raises((ClipSearchError, ValueError)):
        list(map(close_midway, outcomes))


# ── After a broken connection ────────────────────────────────────────────────────────────────────────────────────────


class Breaking:
    """A stream that breaks after so many answers each time, `times` times; it stores what it answers, and some more."""

    def __init__(self, server: FakeServer, times: int, after: int = 5) -> None:
        self.streams: list[list[int]] = []
        self.sent: list[str] = []
        self._server, self._times, self._after = server, times, after

    def __call__(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        """Answer a stream."""
        received: list[int] = []
        self.streams.append(received)
        breaks = len(self.streams) <= self._times
        for request in requests:
            received.append(request.index)
            self.sent.append(request.item.id)
            self._server.items[request.item.id] = request.item  # stored, whether or not it is answered
            if breaks and len(received) > self._after:
                self.abort(context)
            yield stored(request, self._server.sequence())

    def abort(self, context: Any) -> None:
        """Break the stream."""
        unavailable = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="stopping")
        context.abort_with_status(rpc_status.to_status(unavailable))


def test_a_broken_stream_goes_on_with_what_has_no_answer(server: FakeServer, send: Send) -> None:
    """Each item has one outcome, however often the stream breaks; each stream begins with the oldest unanswered."""
    breaking = server.ingest_behaviour = Breaking(server, times=4)
    told = send(server.address, items(200), resume=FAST)
    assert told.error is None
    assert sorted(outcome.index for outcome in told.outcomes) == list(range(200))
    assert len(breaking.streams) == 5
    assert len(server.items) == 200
    answered = 0
    for stream in breaking.streams:
        assert stream == list(range(stream[0], stream[0] + len(stream)))
        assert stream[0] <= answered + 5  # gRPC drops answers that its caller had no time to read
        answered = max(answered, stream[-1])


def test_of_the_same_id_the_last_wins_after_a_break(server: FakeServer, send: Send) -> None:
    """Items of one id are never in flight together, so that sending one again cannot undo a later one."""
    breaking = server.ingest_behaviour = Breaking(server, times=8, after=2)
    versions = [Item(f"item-{number % 3}", None, text=str(number)) for number in range(30)]
    told = send(server.address, versions, resume=FAST)
    assert told.error is None
    assert [outcome.index for outcome in told.outcomes] == list(range(30))
    assert {item.text for item in server.items.values()} == {"27", "28", "29"}
    for stream in breaking.streams:
        assert stream == sorted(stream)


def test_the_order_holds_where_answers_overtake_each_other(server: FakeServer, send: Send) -> None:
    """Even where the server answers in any order, a later item of an id is sent only once the earlier is answered."""
    streams = 0

    def answer_newest_then_break(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        nonlocal streams
        streams += 1
        held: list[Any] = []
        for request in requests:
            held.append(request)
            if len(held) == 2 and streams == 1:
                server.items[held[1].item.id] = held[1].item
                yield stored(held[1], 1)
                context.abort_with_status(rpc_status.to_status(status_pb2.Status(code=code_pb2.UNAVAILABLE)))
            if streams > 1:
                server.items[request.item.id] = request.item
                yield stored(request, 2)

    server.ingest_behaviour = answer_newest_then_break
    versions = [Item("a", None, text="old"), Item("b", None), Item("a", None, text="new"), Item("c", None)]
    told = send(server.address, versions, resume=FAST)
    assert told.error is None
    assert sorted(outcome.index for outcome in told.outcomes) == [0, 1, 2, 3]
    assert server.items["a"].text == "new"


def test_what_trying_again_cannot_mend_ends_it_at_once(server: FakeServer, send: Send) -> None:
    """A collection that is not there is told after one attempt."""
    attempts = 0

    def refuse(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        nonlocal attempts
        attempts += 1
        next(requests)
        context.abort_with_status(rpc_status.to_status(status_pb2.Status(code=code_pb2.NOT_FOUND, message="no cats")))
        yield  # a generator

    server.ingest_behaviour = refuse
    told = send(server.address, items(3), resume=FAST)
    assert isinstance(told.error, NotFoundError)
    assert attempts == 1


def test_resuming_is_bounded_and_says_so(server: FakeServer, send: Send) -> None:
    """A server that never answers anything is given up after so many attempts."""
    breaking = server.ingest_behaviour = Breaking(server, times=1_000, after=0)
    told = send(server.address, items(3), resume=ResumePolicy(attempts_max=3, backoff_initial_seconds=0.01))
    assert isinstance(told.error, UnavailableError)
    assert len(breaking.streams) == 4
    assert told.error.__notes__[0].startswith("tried 3 times in ")
    assert not told.outcomes
    assert told.unanswered <= 3  # Those that were drawn before the streams broke.


def test_progress_resets_the_bounds(server: FakeServer, send: Send) -> None:
    """A stream that breaks more often than is tried without progress still ends well."""
    breaking = server.ingest_behaviour = Breaking(server, times=12, after=3)
    policy = ResumePolicy(attempts_max=3, backoff_initial_seconds=0.01)
    told = send(server.address, items(60), IngestBounds(items_in_flight_max=2), resume=policy)
    assert told.error is None
    assert len(told.outcomes) == 60
    assert len(breaking.streams) == 13


def test_a_server_that_was_never_reached_ends_it_at_once(send: Send) -> None:
    """A wrong address is told at once."""
    assert isinstance(send("127.0.0.1:1", items(3), resume=ResumePolicy()).error, UnreachableError)


def test_a_stall_is_a_broken_connection(server: FakeServer, send: Send) -> None:
    """Where nothing is answered for too long, another stream takes over."""
    streams = 0
    release = threading.Event()

    def stall_once(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        nonlocal streams
        streams += 1
        if streams == 1:
            release.wait(timeout=60)
        yield from server.store_each(requests, context)

    server.ingest_behaviour = stall_once
    told = send(server.address, items(3), IngestBounds(idle_seconds_max=0.3), resume=FAST)
    release.set()
    assert told.error is None
    assert [outcome.index for outcome in told.outcomes] == [0, 1, 2]


def test_a_server_that_ends_the_stream_early_with_ok_loses_nothing(server: FakeServer, send: Send) -> None:
    """A stream that ends without an error before everything was sent is not taken for complete."""
    streams = 0

    def answer_three(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        nonlocal streams
        streams += 1
        for count, request in enumerate(requests):
            yield from server.store_each(iter([request]), context)
            if count == 2:
                return

    server.ingest_behaviour = answer_three
    told = send(server.address, items(8), IngestBounds(items_in_flight_max=1), resume=FAST)
    assert told.error is None
    assert len(told.outcomes) == 8
    assert streams == 3


def test_a_source_that_fails_raises_after_the_items_before_it_even_over_a_break(server: FakeServer, send: Send) -> None:
    """What was drawn before the failure is completed by the stream that takes over."""
    server.ingest_behaviour = Breaking(server, times=1, after=1)

    def failing() -> Iterator[Item]:
        yield from items(3)
        raise UnavailableError("the source's own")

    told = send(server.address, failing(), resume=FAST)
    assert str(told.error) == "the source's own"
    assert len(told.outcomes) == 3


def test_a_source_that_keeps_its_thread_waiting_is_drawn_by_one_thread_at_a_time(
    server: FakeServer, client: Client
) -> None:
    """While the thread of a broken stream still waits for the source, the next stream sends what has no answer."""
    breaking = server.ingest_behaviour = Breaking(server, times=1, after=1)
    go_on = threading.Event()

    def waiting() -> Iterator[Item]:
        yield from items(2)
        assert go_on.wait(timeout=60)
        yield Item("late", None)

    with client.ingest(waiting()) as stream:
        outcomes = []
        for outcome in stream:
            outcomes.append(outcome.id)
            if len(outcomes) == 2:
                go_on.set()
    assert outcomes == ["item-0", "item-1", "late"]
    assert len(breaking.streams) == 2


async def test_an_asynchronous_source_survives_a_break(server: FakeServer) -> None:
    """An async generator is drawn by a task of its own, which no broken stream cancels."""
    server.ingest_behaviour = Breaking(server, times=3, after=2)

    async def source() -> AsyncIterator[Item]:
        for item in items(40):
            await asyncio.sleep(0)
            yield item

    async with AsyncClient(server.address, resume=FAST) as client, client.ingest(source()) as stream:
        assert sorted([outcome.index async for outcome in stream]) == list(range(40))


async def test_leaving_early_ends_the_asynchronous_stream(server: FakeServer) -> None:
    """A caller that stops reading leaves no task behind, and the stream cannot be iterated again."""
    async with AsyncClient(server.address) as client:
        async with client.ingest(items(100_000)) as stream:
            async for outcome in stream:
                if outcome.index == 10:
                    break
        assert asyncio.all_tasks() - {asyncio.current_task()} == set()
        with pytest.raises(RuntimeError, match="only once"):
            aiter(stream)
