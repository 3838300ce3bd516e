"""Stores a stream of items of any length with bounded memory; knows nothing of files or terminals.

Items are taken from an iterator no faster than the server answers: at most so many, and so many bytes of them, are on
their way at one time. Answers come in any order. Three threads take part: gRPC's, which draws items from the caller's
iterator; the caller's, which reads outcomes; and a watchdog, which ends a stream on which nothing moves any more.

When the connection breaks, another stream takes its place after a pause (`resuming.py`) and first sends again what has
no answer. That may store an item twice under its id, which is storing it once; its outcome may then say `replaced`.

Invariant: an outcome without an error means that the server has acknowledged the item as stored, and every item has one
outcome. When iterating ends with an error, items without one may or may not be stored: sending them again is safe.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from clip_search.contents import Item
from clip_search.conversion import item_message
from clip_search.errors import ClipSearchError, DeadlineExceededError
from clip_search.ingest_state import IngestBounds, IngestState
from clip_search.results import ItemOutcome
from clip_search.resuming import Outage, ResumePolicy
from clip_search.v1 import index_pb2, item_pb2

__all__ = ["Ingest", "IngestBounds"]


class _Window:
    """The state of an ingest, shared by its threads; every method may be called from any of them.

    A stream is known by its number: the threads of one that was given up find that it is not the current one.
    """

    def __init__(self, state: IngestState, idle_seconds_max: float) -> None:
        self._state = state
        self._idle_seconds_max = idle_seconds_max
        self._stream = 0
        self._closed = False
        self._waiting_since: float | None = None  # since when the caller has been waiting for an answer
        lock = threading.Lock()
        self._room = threading.Condition(lock)  # for the sender: an item was answered, or the ingest is over
        self._watch = threading.Condition(lock)  # for the watchdog: the caller waits, or the ingest is over
        self._over = threading.Condition(lock)  # for the caller, while it pauses: the ingest is over

    @property
    def in_flight(self) -> int:
        with self._room:
            return self._state.in_flight

    def begin_stream(self) -> int:
        """Let a new stream take the place of the one before; return its number."""
        with self._room:
            self._stream += 1
            self._state.begin_stream()
            return self._stream

    def admit(self, item: item_pb2.Item) -> bool:
        """Wait for room, whichever stream makes it, then count an item in; False once all is over."""
        with self._room:
            while not self._closed and not self._state.has_room_for(item):
                self._room.wait()
            if self._closed:
                return False
            if not self._state.in_flight and self._waiting_since is not None:
                self._waiting_since = time.monotonic()  # before, nothing was owed
                self._watch.notify()
            self._state.admit(item)
            return True

    def finish(self) -> None:
        """Take note that nothing more will be admitted."""
        with self._room:
            self._state.finished = True

    def next_request(self, stream: int) -> index_pb2.IngestRequest | None:
        """Give what this stream has to send next; None where nothing waits, or not for this stream."""
        with self._room:
            return None if self._is_over(stream) else self._state.next_request()

    def is_done(self, stream: int) -> bool:
        """Tell whether this stream has nothing to send any more."""
        with self._room:
            return self._is_over(stream) or (self._state.finished and not self._state.has_unsent)

    def lacks_items(self, stream: int) -> bool:
        """Tell whether the next item must be drawn for this stream to have something to send."""
        with self._room:
            return not (self._is_over(stream) or self._state.finished or self._state.has_unsent)

    def _is_over(self, stream: int) -> bool:
        return self._closed or stream != self._stream

    def await_answer(self) -> None:
        """Start the watchdog's clock: from now on the caller waits for an answer."""
        with self._room:
            self._waiting_since = time.monotonic()
            self._watch.notify()

    def settle(self, response: index_pb2.IngestResponse) -> ItemOutcome:
        """Count an answered item out; the watchdog's clock stands until the next answer is waited for."""
        with self._room:
            self._waiting_since = None
            outcome = self._state.settle(response)
            self._room.notify()
            return outcome

    def end_stream(self) -> None:
        """Stop the watchdog's clock."""
        with self._room:
            self._waiting_since = None

    def check_end(self) -> None:
        with self._room:
            self._state.check_end()

    def close(self) -> None:
        """Let nothing more in, and wake whoever waits."""
        with self._room:
            self._closed = True
            for waiting in (self._room, self._watch, self._over):
                waiting.notify_all()

    def pause(self, seconds: float) -> bool:
        """Wait; False when the ingest is closed meanwhile."""
        with self._over:
            return not self._over.wait_for(lambda: self._closed, seconds)

    def wait_for_stall(self) -> bool:
        """Wait until an answer is owed and waited for too long (True), or the window is closed (False)."""
        with self._watch:
            while not self._closed:
                if self._waiting_since is None or not self._state.in_flight:
                    self._watch.wait()
                    continue
                left_seconds = self._waiting_since + self._idle_seconds_max - time.monotonic()
                if left_seconds <= 0:
                    self._waiting_since = None
                    return True
                self._watch.wait(left_seconds)
            return False


class Ingest:
    """A stream of items to a server; iterating sends them and gives what became of each, in any order.

    Use it as a context manager: leaving it ends the stream, whatever was sent until then. It can be iterated once.

    Args:
        method: the stub's `Ingest`.
        items: what to store; drawn in another thread, one by one. Should it raise, the items before are still
            completed, and iterating then raises the same.
        collection: which collection to store in; empty means `default`.
        model: which model embeds; empty means the server's default one.
        bounds: what may be in flight.
        resume: how to go on after the connection broke; None for not at all.
        explain: turns a failed call into the exception to raise.
    """

    def __init__(
        self,
        method: Callable[[Iterator[index_pb2.IngestRequest]], Any],  # a call: an iterator with a grpc.Call's methods
        items: Iterable[Item],
        *,
        collection: str,
        model: str,
        bounds: IngestBounds,
        resume: ResumePolicy | None,
        explain: Callable[[grpc.RpcError], ClipSearchError],
    ) -> None:
        self._method = method
        self._items = iter(items)
        self._drawing = threading.Lock()  # a given-up stream's thread may still be waiting for the caller's iterator
        self._bounds = bounds
        self._outage = Outage(resume)
        self._explain = explain
        self._window = _Window(IngestState(bounds, collection, model), bounds.idle_seconds_max)
        self._iterated = False
        self._call: Any = None
        self._source_error: BaseException | None = None
        self._stalled = False

    @property
    def in_flight(self) -> int:
        """How many items are drawn and not answered."""
        return self._window.in_flight

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream; items in flight may or may not be stored."""
        self._window.close()
        if self._call is not None:
            self._call.cancel()

    def __iter__(self) -> Generator[ItemOutcome, None, None]:
        """Send the items and give what became of each.

        Raises:
            ClipSearchError: the stream broke for good; items that had no outcome may or may not be stored.
        """
        if self._iterated:
            raise RuntimeError("an Ingest can be iterated only once")
        self._iterated = True
        watchdog = threading.Thread(target=self._watch, name="ingest-watchdog", daemon=True)
        watchdog.start()
        try:
            while True:
                try:
                    yield from self._stream()
                except ClipSearchError as error:
                    if not self._window.pause(self._outage.pause_seconds(error)):
                        raise
                else:
                    break
        finally:
            self.close()
            watchdog.join()
        if self._source_error is not None:
            raise self._source_error

    def _stream(self) -> Iterator[ItemOutcome]:
        """Send what has no answer and what follows; give outcomes until the server has answered everything."""
        stream = self._window.begin_stream()
        self._stalled = False
        call = self._call = self._method(self._requests(stream))
        try:
            self._window.await_answer()
            for response in call:
                outcome = self._window.settle(response)
                self._outage.end()
                yield outcome
                self._window.await_answer()
        except grpc.RpcError as error:
            raise self._broken(error) from error
        finally:
            self._window.end_stream()
            call.cancel()  # where the server answered nonsense, it is still open
        self._window.check_end()

    def _requests(self, stream: int) -> Iterator[index_pb2.IngestRequest]:
        """Give gRPC one request after the other; runs in gRPC's thread, so it must not raise."""
        while not self._window.is_done(stream):
            request = self._window.next_request(stream)
            if request is not None:
                yield request
                continue
            with self._drawing:
                if self._window.lacks_items(stream):  # no other stream's thread has drawn one meanwhile
                    self._draw()

    def _draw(self) -> None:
        """Take the next item from the caller's iterator, for whichever stream sends it."""
        try:
            message = item_message(next(self._items))
        except StopIteration:
            self._window.finish()
        except Exception as error:  # noqa: BLE001  # kept for the caller's thread, which raises it
            self._source_error = error
            self._window.finish()
        else:
            self._window.admit(message)

    def _broken(self, error: grpc.RpcError) -> ClipSearchError:
        if self._stalled:
            return DeadlineExceededError(
                f"the server answered none of {self.in_flight} items for {self._bounds.idle_seconds_max:g} s"
            )
        return self._explain(error)

    def _watch(self) -> None:
        while self._window.wait_for_stall():
            self._stalled = True
            self._call.cancel()
