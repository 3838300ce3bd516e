"""Stores a stream of items of any length with bounded memory; knows nothing of files, terminals or retries.

Items are taken from an iterator no faster than the server answers: at most so many, and so many bytes of them, are on
their way at one time. Answers come in any order. Three threads take part: gRPC's, which draws items from the caller's
iterator; the caller's, which reads outcomes; and a watchdog, which ends a stream on which nothing moves any more.

Invariant: an outcome without an error means that the server has acknowledged the item as stored. Items without an
outcome when the stream breaks may or may not be stored: sending them again is safe.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc

from clip_search.contents import Item
from clip_search.conversion import item_message, outcome_of
from clip_search.errors import ClipSearchError, ConnectionLostError, DeadlineExceededError, UnexpectedStatusError
from clip_search.results import ItemOutcome
from clip_search.v1 import index_pb2

__all__ = ["Ingest", "IngestBounds"]


@dataclass(frozen=True, slots=True)
class IngestBounds:
    """What bounds a stream.

    Args:
        items_in_flight_max: items sent and not yet answered.
        bytes_in_flight_max: bytes of these items together; a single item may be larger, and then travels alone.
        idle_seconds_max: how long the server may take to answer anything while items are in flight.
    """

    items_in_flight_max: int = 64
    bytes_in_flight_max: int = 64 * 1024 * 1024
    idle_seconds_max: float = 30.0


class _Window:
    """The items in flight. Every method may be called from any thread."""

    def __init__(self, bounds: IngestBounds) -> None:
        self._bounds = bounds
        self._sizes_bytes: dict[int, int] = {}
        self._total_bytes = 0
        self._next_index = 0
        self._closed = False
        self._progress_time = time.monotonic()
        lock = threading.Lock()
        self._room = threading.Condition(lock)  # for the sender: an item was answered
        self._watch = threading.Condition(lock)  # for the watchdog: the first item is in flight, or the stream is over

    @property
    def in_flight(self) -> int:
        """How many items are in flight."""
        with self._room:
            return len(self._sizes_bytes)

    def admit(self, size_bytes: int) -> int | None:
        """Wait for room, then count an item in and give its index; None once the window is closed."""
        with self._room:
            while not self._closed and not self._has_room(size_bytes):
                self._room.wait()
            if self._closed:
                return None
            if not self._sizes_bytes:
                self._progress_time = time.monotonic()
                self._watch.notify()
            index = self._next_index
            self._next_index += 1
            self._sizes_bytes[index] = size_bytes
            self._total_bytes += size_bytes
            return index

    def _has_room(self, size_bytes: int) -> bool:
        if not self._sizes_bytes:
            return True
        fits = self._total_bytes + size_bytes <= self._bounds.bytes_in_flight_max
        return fits and len(self._sizes_bytes) < self._bounds.items_in_flight_max

    def release(self, index: int) -> bool:
        """Count an answered item out; False when no such item is in flight."""
        with self._room:
            size_bytes = self._sizes_bytes.pop(index, None)
            if size_bytes is None:
                return False
            self._total_bytes -= size_bytes
            self._progress_time = time.monotonic()
            self._room.notify()
            return True

    def close(self) -> None:
        """Let nothing more in, and wake whoever waits."""
        with self._room:
            self._closed = True
            self._room.notify_all()
            self._watch.notify_all()

    def wait_for_stall(self) -> bool:
        """Wait until items are in flight and none is answered for too long (True), or the window is closed (False)."""
        with self._watch:
            while not self._closed:
                left_seconds = self._progress_time + self._bounds.idle_seconds_max - time.monotonic()
                if self._sizes_bytes and left_seconds <= 0:
                    return True
                self._watch.wait(left_seconds if self._sizes_bytes else None)
            return False


class Ingest:
    """One stream of items to a server; iterating sends them and gives what became of each, in any order.

    Use it as a context manager: leaving it ends the stream, whatever was sent until then. It can be iterated once.

    Args:
        method: the stub's `Ingest`.
        items: what to store; drawn in another thread, one by one. Should it raise, the items before are still
            completed, and iterating then raises the same.
        collection: which collection to store in; empty means `default`.
        model: which model embeds; empty means the server's default one.
        bounds: what may be in flight.
        explain: turns a failed call into the exception to raise.
    """

    def __init__(
        self,
        method: "grpc.StreamStreamMultiCallable[index_pb2.IngestRequest, index_pb2.IngestResponse]",
        items: Iterable[Item],
        *,
        collection: str,
        model: str,
        bounds: IngestBounds,
        explain: Callable[[grpc.RpcError], ClipSearchError],
    ) -> None:
        self._method = method
        self._items = items
        self._collection = collection
        self._model = model
        self._bounds = bounds
        self._explain = explain
        self._window = _Window(bounds)
        self._call: grpc.Call | None = None
        self._source_error: BaseException | None = None
        self._stalled = False

    @property
    def in_flight(self) -> int:
        """How many items are sent and not answered."""
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

    def __iter__(self) -> Iterator[ItemOutcome]:
        """Send the items and give what became of each.

        Raises:
            ClipSearchError: the stream broke; items that had no outcome may or may not be stored.
        """
        if self._call is not None:
            raise RuntimeError("an Ingest can be iterated only once")
        call = self._call = self._method(self._requests())
        watchdog = threading.Thread(target=self._watch, name="ingest-watchdog", daemon=True)
        watchdog.start()
        try:
            for response in call:
                yield self._outcome(response)
            self._check_end()
        except grpc.RpcError as error:
            raise self._source_error or self._broken(error) from error
        finally:
            self.close()
            watchdog.join()

    def _requests(self) -> Iterator[index_pb2.IngestRequest]:
        """Give gRPC one request after the other, as room permits; runs in gRPC's thread, so it must not raise."""
        try:
            for item in self._items:
                message = item_message(item)
                index = self._window.admit(message.ByteSize())
                if index is None:
                    return
                yield index_pb2.IngestRequest(collection=self._collection, model=self._model, index=index, item=message)
        except Exception as error:  # noqa: BLE001  # kept for the caller's thread, which raises it
            self._source_error = error

    def _outcome(self, response: index_pb2.IngestResponse) -> ItemOutcome:
        outcome = outcome_of(response.result)
        if not self._window.release(outcome.index):
            message = f"the server answered item {outcome.index}, which was not in flight. This is a bug of the server."
            raise UnexpectedStatusError(message, code="INTERNAL")
        return outcome

    def _check_end(self) -> None:
        """Look for what is wrong with a stream that ended without an error."""
        if self._source_error is not None:
            raise self._source_error
        if self.in_flight:
            raise ConnectionLostError(f"the server ended the stream with {self.in_flight} items unanswered")

    def _broken(self, error: grpc.RpcError) -> ClipSearchError:
        if self._stalled:
            return DeadlineExceededError(
                f"the server answered none of {self.in_flight} items for {self._bounds.idle_seconds_max:g} s"
            )
        return self._explain(error)

    def _watch(self) -> None:
        if self._window.wait_for_stall():
            self._stalled = True
            self.close()
