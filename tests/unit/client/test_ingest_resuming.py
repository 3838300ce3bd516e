"""Streams of items whose connection breaks: nothing is lost, doubled or out of order, and it ends."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status

from clip_search.async_client import AsyncClient
from clip_search.client import Client
from clip_search.contents import Item
from clip_search.errors import (
    NotFoundError,
    UnavailableError,
    UnreachableError,
)
from clip_search.ingest import IngestBounds
from clip_search.resuming import ResumePolicy
from tests.unit.client.fake_server import FakeServer, stored
from tests.unit.client.ingesting import FAST, Send, items


def abort(context: Any) -> None:
    """Break a stream."""
    unavailable = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="stopping")
    context.abort_with_status(rpc_status.to_status(unavailable))


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
                abort(context)
            yield stored(request, self._server.sequence())


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
    streams: list[list[int]] = []

    def take_three_and_break(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        streams.append([request.index for request in itertools.islice(requests, 3)])
        abort(context)
        yield

    server.ingest_behaviour = take_three_and_break
    told = send(server.address, items(3), resume=ResumePolicy(attempts_max=3, backoff_initial_seconds=0.01))
    assert isinstance(told.error, UnavailableError)
    assert streams == [[0, 1, 2]] * 4
    assert told.error.__notes__[0].startswith("tried 3 times in ")
    assert told.unanswered == 3


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
