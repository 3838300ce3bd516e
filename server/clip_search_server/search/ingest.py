"""Items become durable records: validate, embed, commit; knows nothing of gRPC.

Pictures are embedded concurrently but committed in the order they came, because of the same id the last one must win.
What waits is bounded: a producer that is faster than the disk or the tower waits in `Ingest.add`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field

from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.encoder import Encoder
from clip_search_server.errors import ClipSearchError, InvalidArgumentError, NotFoundError
from clip_search_server.index import Record
from clip_search_server.limits import Limits
from clip_search_server.search.attributes import Attributes, encode_attributes
from clip_search_server.search.collection import AsyncCollection
from clip_search_server.search.content import Content, ItemContent, content_digest, embed_content

__all__ = ["Ingest", "Item", "ItemOutcome", "Stored", "run_together", "upsert_items"]

#: Items of one stream or request that are being embedded or wait for their commit.
_ITEMS_IN_FLIGHT_MAX = 64
_ITEMS_PER_COMMIT_MAX = 128


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to store; without content it keeps the vector it has."""

    id: str
    content: Content | None
    attributes: Attributes = field(default_factory=dict)
    text: str = ""
    thumbnail: bytes = b""


@dataclass(frozen=True, slots=True)
class Stored:
    """The item is durable."""

    sequence: int
    replaced: bool


ItemOutcome = Stored | ClipSearchError
"""What became of one item: where it is, or why it was refused."""


class Ingest:
    """A pipeline for any number of items of one collection.

    `answer` is awaited once for each item, in the order of `add`, after the item is durable or refused.
    """

    def __init__(
        self,
        collection: AsyncCollection,
        encoder: Encoder,
        limits: Limits,
        urgency: Urgency,
        answer: Callable[[int, str, ItemOutcome], Awaitable[None]],
    ) -> None:
        self._collection = collection
        self._encoder = encoder
        self._limits = limits
        self._urgency = urgency
        self._answer = answer
        self._slots = asyncio.Semaphore(_ITEMS_IN_FLIGHT_MAX)
        self._pending: deque[tuple[int, str, asyncio.Task[Record]]] = deque()
        self._arrival = asyncio.Event()
        self._finished = False

    async def add(self, index: int, item: Item) -> None:
        """Start on `item`; waits while too many are in flight. `index` is handed to `answer`."""
        await self._slots.acquire()
        task = asyncio.create_task(_make_record(item, self._collection, self._encoder, self._limits, self._urgency))
        self._pending.append((index, item.id, task))
        self._arrival.set()

    def finish(self) -> None:
        """Tell that no more items come: `run` returns once all are answered."""
        self._finished = True
        self._arrival.set()

    async def run(self) -> None:
        """Commit and answer items until `finish` was called and nothing is left.

        Raises:
            ClipSearchError: the collection as a whole refuses writes. Unanswered items may or may not be stored.
        """
        try:
            while await self._wait_for_pending():
                await self._commit(await self._take_ready())
        finally:
            for _, _, task in self._pending:
                task.cancel()

    async def _wait_for_pending(self) -> bool:
        while not self._pending and not self._finished:
            self._arrival.clear()
            await self._arrival.wait()
        return bool(self._pending)

    async def _take_ready(self) -> list[tuple[int, str, asyncio.Task[Record]]]:
        """Wait for the oldest item, then take it and all finished ones right behind it."""
        await asyncio.wait([self._pending[0][2]])
        ready: list[tuple[int, str, asyncio.Task[Record]]] = []
        while self._pending and self._pending[0][2].done() and len(ready) < _ITEMS_PER_COMMIT_MAX:
            ready.append(self._pending.popleft())
        return ready

    async def _commit(self, ready: list[tuple[int, str, asyncio.Task[Record]]]) -> None:
        records = [task.result() for _, _, task in ready if task.exception() is None]
        outcomes = iter(await _store(records, self._collection))
        for index, item_id, task in ready:
            error = task.exception()
            if error is not None and not isinstance(error, ClipSearchError):
                raise error
            await self._answer(index, item_id, next(outcomes) if error is None else error)
            self._slots.release()


async def upsert_items(
    items: Sequence[Item], collection: AsyncCollection, encoder: Encoder, limits: Limits, urgency: Urgency
) -> list[ItemOutcome]:
    """Store `items` and return what became of each, in order.

    Raises:
        ClipSearchError: the collection as a whole refuses writes.
    """
    outcomes: list[ItemOutcome] = []

    async def collect(_index: int, _item_id: str, outcome: ItemOutcome) -> None:
        outcomes.append(outcome)

    pipeline = Ingest(collection, encoder, limits, urgency, collect)

    async def feed() -> None:
        for index, item in enumerate(items):
            await pipeline.add(index, item)
        pipeline.finish()

    await run_together(feed(), pipeline.run())
    return outcomes


async def run_together(*coroutines: Coroutine[None, None, None]) -> None:
    """Run `coroutines` side by side until all return; when one raises, cancel the others and raise its error."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for coroutine in coroutines:
                tasks.create_task(coroutine)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _make_record(
    item: Item, collection: AsyncCollection, encoder: Encoder, limits: Limits, urgency: Urgency
) -> Record:
    """Validate and embed one item."""
    _check(item, limits)
    attributes = encode_attributes(item.attributes, limits)
    if item.content is None:
        (present,) = await collection.get([item.id])
        if present is None:
            raise NotFoundError(f"content: is unset, and no item {item.id!r} is stored whose vector could be kept.")
        return Record(item.id, None, attributes, item.text, item.thumbnail, present.content_digest)
    if isinstance(item.content, ItemContent):
        raise InvalidArgumentError("content.item_id", "an item is made of a text, an image or a vector.")
    try:
        vector = await embed_content(item.content, encoder, collection, urgency)
    except InvalidArgumentError as error:
        raise error.within("content") from error
    return Record(item.id, vector, attributes, item.text, item.thumbnail, content_digest(item.content))


async def _store(records: Sequence[Record], collection: AsyncCollection) -> list[ItemOutcome]:
    if not records:
        return []
    outcome = await collection.upsert(records)
    return [
        result if isinstance(result, ClipSearchError) else Stored(result, replaced)
        for result, replaced in zip(outcome.results, outcome.replaced, strict=True)
    ]


def _check(item: Item, limits: Limits) -> None:
    id_bytes = len(item.id.encode())
    if not 1 <= id_bytes <= limits.id_bytes_max:
        raise InvalidArgumentError("id", f"has {id_bytes} bytes; 1 to {limits.id_bytes_max} are accepted.")
    if len(item.text) > limits.text_chars_max:
        raise InvalidArgumentError(
            "text", f"has {len(item.text):,} characters; at most {limits.text_chars_max:,} are accepted."
        )
    if len(item.thumbnail) > limits.thumbnail_bytes_max:
        raise InvalidArgumentError(
            "thumbnail", f"has {len(item.thumbnail):,} bytes; at most {limits.thumbnail_bytes_max:,} are accepted."
        )
