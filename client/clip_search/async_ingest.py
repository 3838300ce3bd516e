"""`ingest.py` for asyncio: its threads do the work, and this hands items to them and outcomes to the event loop.

It is not written on `grpc.aio`, because there a stream that breaks while an item is being written tells INTERNAL in the
place of what really happened, and so whether going on makes sense. It knows nothing of connections.
"""

import asyncio
import concurrent.futures
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from clip_search.contents import Item
from clip_search.ingest import Ingest
from clip_search.results import ItemOutcome

__all__ = ["AsyncIngest"]


class AsyncIngest:
    """A stream of items to a server; iterating sends them and gives what became of each, in any order.

    Use it as a context manager: leaving it ends the stream, whatever was sent until then. It can be iterated once, in
    the event loop in which it was made.

    Args:
        ingest: makes the `Ingest` of an iterable of items.
        items: what to store. An ordinary iterable is drawn in a thread, so that it may read files; an asynchronous one
            in the event loop. Should it raise, the items before are completed, and iterating then raises the same.
    """

    def __init__(self, ingest: Callable[[Iterable[Item]], Ingest], items: Iterable[Item] | AsyncIterable[Item]) -> None:
        self._source = _Drawn(items) if isinstance(items, AsyncIterable) else None
        self._ingest = ingest(self._source or items)  # type: ignore[arg-type]  # not an asynchronous one
        self._outcomes = iter(self._ingest)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "async-ingest")
        self._iterated = False

    @property
    def in_flight(self) -> int:
        """How many items are drawn and not answered."""
        return self._ingest.in_flight

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the stream; items in flight may or may not be stored."""
        self._ingest.close()
        if self._source is not None:
            self._source.close()
        # Behind whatever the thread is still at, which ends by now.
        await asyncio.get_running_loop().run_in_executor(self._thread, self._outcomes.close)
        self._thread.shutdown(wait=False)

    def __aiter__(self) -> AsyncIterator[ItemOutcome]:
        """Send the items and give what became of each.

        Raises:
            ClipSearchError: the stream broke for good; items that had no outcome may or may not be stored.
        """
        if self._iterated:
            raise RuntimeError("an AsyncIngest can be iterated only once")
        self._iterated = True
        return self._all_outcomes()

    async def _all_outcomes(self) -> AsyncIterator[ItemOutcome]:
        loop = asyncio.get_running_loop()
        while (outcome := await loop.run_in_executor(self._thread, next, self._outcomes, None)) is not None:
            yield outcome


class _Drawn(Iterator[Item]):
    """An asynchronous iterable as an ordinary one, for a thread: each item is drawn in the event loop."""

    def __init__(self, items: AsyncIterable[Item]) -> None:
        self._items = aiter(items)
        self._loop = asyncio.get_running_loop()
        self._next: concurrent.futures.Future[Item] | None = None
        self._closed = False

    def __next__(self) -> Item:
        if self._closed:
            raise StopIteration
        self._next = asyncio.run_coroutine_threadsafe(_awaited(self._items), self._loop)
        try:
            return self._next.result()
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Stop drawing; called in the event loop."""
        self._closed = True
        if self._next is not None:
            self._next.cancel()


async def _awaited(items: AsyncIterator[Item]) -> Item:
    return await anext(items)
