"""Streams of items: outcomes, bounds, failures, endings."""

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status

from clip_search.client import Client
from clip_search.contents import Item
from clip_search.errors import (
    ClipSearchError,
    ConnectionLostError,
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
    UnexpectedStatusError,
)
from clip_search.ingest import IngestBounds, _Window
from clip_search.ingest_state import IngestState
from clip_search.results import ItemOutcome
from clip_search.v1 import item_pb2
from tests.unit.client.fake_server import FakeServer, exhausted, invalid, refused, stored
from tests.unit.client.ingesting import FAST, WINDOW, Send, ingest, items


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
