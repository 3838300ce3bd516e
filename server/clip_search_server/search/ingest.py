"""Items become durable records: validate, embed, commit; knows nothing of gRPC.

Pictures are embedded concurrently but committed in the order they came, because of the same id the last one must win.
What waits is bounded in items and bytes: a producer that is faster than the disk or the tower waits in `Ingest.add`.

Where the request is traced, one of its items at a time is followed, from its arrival to its answer. So what is traced
of a request with a thousand items, or of a stream that lasts for hours, is bounded, and shows what items wait for now.
"""

import asyncio
import dataclasses
import functools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from clip_search_server.encoder.batching import Gate, Urgency
from clip_search_server.encoder.encoder import Encoder
from clip_search_server.errors import ClipSearchError, InvalidArgumentError
from clip_search_server.index import Attributes, Record, check_attributes
from clip_search_server.limits import Limits
from clip_search_server.search.collection import AsyncCollection
from clip_search_server.search.concurrency import run_together
from clip_search_server.search.content import Content, ImageContent, ItemContent, embed_item
from clip_search_server.spans import CURRENT_SPAN, Span, untold, within

__all__ = ["Ingest", "Item", "ItemOutcome", "Stored", "check_id", "upsert_items"]

#: Items of one stream or request that are being embedded or wait for their commit.
_ITEMS_IN_FLIGHT_MAX = 64
_ITEMS_PER_COMMIT_MAX = 128
#: Pictures to keep, which live until their items are answered; of one stream, and at least one.
_KEPT_BYTES_MAX = 2**26


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to store; without content it keeps the vector it has."""

    id: str
    content: Content | None
    attributes: Attributes = field(default_factory=dict)
    text: str = ""
    thumbnail: bytes = b""

    @property
    def size_bytes(self) -> int:
        """About what it takes of memory until it is embedded."""
        picture = len(self.content.data) if isinstance(self.content, ImageContent) else 0
        return picture + len(self.thumbnail) + len(self.text)


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
    `patience_seconds` bounds how long the first item waits where items arrive faster than they can be indexed; once one
    is stored the rest waits as long as it takes, so that what was begun is either finished or cut off by its caller.
    `gate`, shared with other pipelines, bounds bytes of items that are not embedded yet.
    """

    def __init__(
        self,
        collection: AsyncCollection,
        encoder: Encoder,
        limits: Limits,
        urgency: Urgency,
        answer: Callable[[int, str, ItemOutcome], Awaitable[None]],
        *,
        patience_seconds: float = math.inf,
        gate: Gate | None = None,
    ) -> None:
        self._collection = collection
        self._encoder = encoder
        self._limits = limits
        self._urgency = urgency
        self._answer = answer
        self._patience_seconds = patience_seconds
        self._gate = gate
        self._slots = asyncio.Semaphore(_ITEMS_IN_FLIGHT_MAX)
        self._pending: deque[tuple[int, str, asyncio.Task[Record]]] = deque()
        self._arrival = asyncio.Event()
        self._kept_bytes: dict[asyncio.Task[Record], int] = {}
        self._answered = asyncio.Event()
        self._finished = False
        self._followed: tuple[asyncio.Task[Record], Span] | None = None

    async def add(self, index: int, item: Item) -> None:
        """Start on `item`; waits while too many are in flight. `index` is handed to `answer`."""
        await self._slots.acquire()
        kept_bytes = await self._room_to_keep(item)
        if self._gate is not None:
            await self._gate.enter(item.size_bytes, self._urgency)
        span = self._follow()
        with within(span or untold()):  # What the others do would fill the trace.
            task = asyncio.create_task(self._make_record(item))
        if span is not None:
            self._followed = task, span
        if self._gate is not None:
            # At that moment the picture is let go, whether or not the client reads its answers; one that is to be kept
            # counts as kept from then on.
            task.add_done_callback(functools.partial(_leave, self._gate, item.size_bytes))
        self._kept_bytes[task] = kept_bytes
        self._pending.append((index, item.id, task))
        self._arrival.set()

    def _follow(self) -> Span | None:
        """Start the span of an item, unless another one's is open."""
        current = CURRENT_SPAN.get()
        return None if current is None or self._followed is not None else current.item("item")

    def _let_go(self, error: BaseException | None) -> None:
        """End the span of the item that is followed, if there is one."""
        if self._followed is not None:
            self._followed[1].end(error=error)
            self._followed = None

    async def _make_record(self, item: Item) -> Record:
        record = await _make_record(item, self._collection, self._encoder, self._limits, self._urgency)
        if self._collection.keeps_images and isinstance(item.content, ImageContent):
            return dataclasses.replace(record, image=item.content.data)
        return record

    async def _room_to_keep(self, item: Item) -> int:
        """Wait until a picture that is to be kept fits beside the others; return its bytes, 0 where none is kept."""
        if not isinstance(item.content, ImageContent) or not self._collection.keeps_images:
            return 0
        size_bytes = len(item.content.data)
        while (held := sum(self._kept_bytes.values())) and held + size_bytes > _KEPT_BYTES_MAX:
            self._answered.clear()
            await self._answered.wait()
        return size_bytes

    def finish(self) -> None:
        """Tell that no more items come: `run` returns once all are answered."""
        self._finished = True
        self._arrival.set()

    async def run(self) -> None:
        """Commit and answer items until `finish` was called and nothing is left.

        Raises:
            ResourceExhaustedError: no room came in time; nothing was stored.
            ClipSearchError: the collection as a whole refuses writes. Unanswered items may or may not be stored.
        """
        try:
            while await self._wait_for_pending():
                await self._commit(await self._take_ready())
        except BaseException as error:
            self._let_go(error)
            raise
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
        followed, span = self._followed or (None, None)
        with within(span if any(task is followed for _, _, task in ready) else CURRENT_SPAN.get()):
            outcomes = iter(await self._store(records))
        for index, item_id, task in ready:
            error = task.exception()
            if error is not None and not isinstance(error, ClipSearchError):
                raise error
            outcome = next(outcomes) if error is None else error
            await self._answer(index, item_id, outcome)
            if task is followed:
                self._let_go(outcome if isinstance(outcome, ClipSearchError) else None)
            self._slots.release()
        for _, _, task in ready:
            del self._kept_bytes[task]
        self._answered.set()

    async def _store(self, records: Sequence[Record]) -> list[ItemOutcome]:
        if not records:
            return []
        outcome = await self._collection.upsert(records, patience_seconds=self._patience_seconds)
        self._patience_seconds = math.inf
        return [
            result if isinstance(result, ClipSearchError) else Stored(result, replaced)
            for result, replaced in zip(outcome.results, outcome.replaced, strict=True)
        ]


async def upsert_items(
    items: Sequence[Item], collection: AsyncCollection, encoder: Encoder, limits: Limits, urgency: Urgency
) -> list[ItemOutcome]:
    """Store `items` and return what became of each, in order.

    Raises:
        ResourceExhaustedError: items arrive faster than they can be indexed; nothing was stored.
        ClipSearchError: the collection as a whole refuses writes.
    """
    outcomes: list[ItemOutcome] = []

    async def collect(_index: int, _item_id: str, outcome: ItemOutcome) -> None:
        outcomes.append(outcome)

    pipeline = Ingest(collection, encoder, limits, urgency, collect, patience_seconds=collection.throttle_seconds_max)

    async def feed() -> None:
        for index, item in enumerate(items):
            await pipeline.add(index, item)
        pipeline.finish()

    await run_together([feed(), pipeline.run()])
    return outcomes


def _leave(gate: Gate, size_bytes: int, _task: asyncio.Task[Record]) -> None:
    gate.leave(size_bytes)


async def _make_record(
    item: Item, collection: AsyncCollection, encoder: Encoder, limits: Limits, urgency: Urgency
) -> Record:
    """Validate and embed one item; where the server makes thumbnails, and the item brings none, make that too."""
    _check(item, limits)
    makes_thumbnail = encoder.makes_thumbnails and not item.thumbnail
    if item.content is None:
        # The picture stays as it is, and so does the thumbnail that was made of it.
        return Record(item.id, None, item.attributes, item.text, None if makes_thumbnail else item.thumbnail)
    if isinstance(item.content, ItemContent):
        raise InvalidArgumentError("content.item_id", "an item is made of a text, an image or a vector.")
    embedded, digest = await embed_item(
        item.content, collection, encoder, urgency, field="content", thumbnail=makes_thumbnail
    )
    thumbnail = item.thumbnail or embedded.thumbnail or b""
    return Record(item.id, embedded.vector, item.attributes, item.text, thumbnail, digest)


def check_id(item_id: str, field: str, limits: Limits) -> None:
    """Raise InvalidArgumentError unless `item_id`, sent as `field`, can be an item's id."""
    id_bytes = len(item_id.encode())
    if not 1 <= id_bytes <= limits.id_bytes_max:
        raise InvalidArgumentError(field, f"has {id_bytes} bytes; 1 to {limits.id_bytes_max} are accepted.")


def _check(item: Item, limits: Limits) -> None:
    check_id(item.id, "id", limits)
    check_attributes(item.attributes, count_max=limits.attributes_max, bytes_max=limits.attributes_bytes_max)
    if len(item.text) > limits.text_chars_max:
        raise InvalidArgumentError(
            "text", f"has {len(item.text):,} characters; at most {limits.text_chars_max:,} are accepted."
        )
    if len(item.thumbnail) > limits.thumbnail_bytes_max:
        raise InvalidArgumentError(
            "thumbnail", f"has {len(item.thumbnail):,} bytes; at most {limits.thumbnail_bytes_max:,} are accepted."
        )
