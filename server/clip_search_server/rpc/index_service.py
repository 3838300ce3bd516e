"""IndexService: writing items, and reading them by id."""

import asyncio
import base64
import binascii
import sys
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from grpc import aio

from clip_search.v1 import index_pb2, index_pb2_grpc, item_pb2
from clip_search_server.encoder.batching import Gate, Urgency
from clip_search_server.encoder.batching.drain import DrainRate
from clip_search_server.errors import (
    ClipSearchError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from clip_search_server.limits import Limits
from clip_search_server.rpc.convert import (
    check_ids,
    generation_message,
    item_from,
    item_result_message,
    kept_images_message,
    optional_filter_from,
    recall_message,
    stored_item_message,
    urgency_of,
)
from clip_search_server.rpc.convert_filter import filter_from
from clip_search_server.rpc.pieces import in_pieces
from clip_search_server.search.catalog import Catalog
from clip_search_server.search.concurrency import run_together
from clip_search_server.search.ingest import Ingest, Item, ItemOutcome, check_id, upsert_items

__all__ = ["IndexService"]

_PAGE_SIZE_DEFAULT = 100
#: Answers of one stream that may wait for the client to read them.
_ANSWERS_WAITING_MAX = 256
_NOT_GIVEN_OUT = "is none that ListItems gave out."
_MEDIA_TYPES = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"RIFF", "image/webp"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)

T = TypeVar("T")

_Context = aio.ServicerContext[Any, Any]


class IndexService(index_pb2_grpc.IndexServiceServicer):
    """Keeps the items of collections."""

    def __init__(self, catalog: Catalog, limits: Limits, draining: asyncio.Event) -> None:
        """Take what is served, its bounds, and what is set once streams should end with what they have received."""
        self._catalog = catalog
        self._limits = limits
        self._draining = draining
        self._open_streams = 0
        self._streams_drain = DrainRate(backlog_min=limits.ingest_streams_max // 2)
        # As many items as streams let in; what is bounded here is bytes of all streams together.
        self._gate = Gate(items_max=sys.maxsize, bytes_max=limits.bytes_in_flight_max)

    async def Upsert(self, request: index_pb2.UpsertRequest, context: _Context) -> index_pb2.UpsertResponse:
        """Store items; one bad item never fails its neighbours."""
        if not 1 <= len(request.items) <= self._limits.items_per_request_max:
            raise InvalidArgumentError(
                "items", f"has {len(request.items)} entries; 1 to {self._limits.items_per_request_max} are accepted."
            )
        collection, encoder = self._catalog.pair(request.collection, request.model)
        converted = await in_pieces(_convert, request.items)
        good = [item for item in converted if isinstance(item, Item)]
        stored = iter(await upsert_items(good, collection, encoder, self._limits, urgency_of(context, bulk=True)))
        outcomes: list[ItemOutcome] = [next(stored) if isinstance(item, Item) else item for item in converted]
        results = [
            item_result_message(number, message.id, _placed(outcome, number))
            for number, (message, outcome) in enumerate(zip(request.items, outcomes, strict=True))
        ]
        sequences = [result.stored.sequence for result in results if result.HasField("stored")]
        return index_pb2.UpsertResponse(results=results, sequence=max(sequences, default=collection.sequence))

    async def Ingest(
        self, request_iterator: AsyncIterator[index_pb2.IngestRequest], context: _Context
    ) -> AsyncIterator[index_pb2.IngestResponse]:
        """Store a stream of items, answering each once it is durable."""
        if self._open_streams >= self._limits.ingest_streams_max:
            raise ResourceExhaustedError(
                f"{self._limits.ingest_streams_max} ingest streams are open already (ingest_streams_max).",
                retry_after_seconds=self._streams_drain.pushback_seconds(1),
            )
        self._open_streams += 1
        self._streams_drain.enter()
        try:
            async for answer in self._ingest(request_iterator, urgency_of(context, bulk=True)):
                yield answer
        finally:
            self._open_streams -= 1
            self._streams_drain.leave(finished=True)

    async def _ingest(
        self, requests: AsyncIterator[index_pb2.IngestRequest], urgency: Urgency
    ) -> AsyncIterator[index_pb2.IngestResponse]:
        answers: asyncio.Queue[index_pb2.IngestResponse | None] = asyncio.Queue(_ANSWERS_WAITING_MAX)

        async def answer(index: int, item_id: str, outcome: ItemOutcome) -> None:
            await answers.put(index_pb2.IngestResponse(result=item_result_message(index, item_id, outcome)))

        async def work() -> None:
            try:
                await self._pipe(requests, urgency, answer)
            except Exception:
                await answers.put(None)
                raise
            # Not when cancelled: then nobody reads any more, and a full queue would never take it.
            await answers.put(None)

        worker = asyncio.create_task(work())
        try:
            while (response := await answers.get()) is not None:
                yield response
            await worker
        finally:
            # The client went away: what it does not know to be stored may be dropped.
            worker.cancel()

    async def _pipe(
        self,
        requests: AsyncIterator[index_pb2.IngestRequest],
        urgency: Urgency,
        answer: "Any",  # noqa: ANN401 - the type of Ingest's parameter
    ) -> None:
        received = _until(self._draining, requests)
        first = await anext(received, None)
        if first is not None:
            names = (first.collection, first.model)
            pipeline = Ingest(*self._catalog.pair(*names), self._limits, urgency, answer, gate=self._gate)

            async def add(request: index_pb2.IngestRequest) -> None:
                item = _convert(request.item)
                if isinstance(item, ClipSearchError):
                    await answer(request.index, request.item.id, item)
                else:
                    await pipeline.add(request.index, item)

            async def feed(first: index_pb2.IngestRequest) -> None:
                await add(first)
                async for request in received:
                    _check_names(request, names)
                    await add(request)
                pipeline.finish()

            await run_together([feed(first), pipeline.run()])
        if self._draining.is_set():
            raise UnavailableError("The server is stopping: what was answered is stored; send the other items again.")

    async def Delete(self, request: index_pb2.DeleteRequest, context: _Context) -> index_pb2.DeleteResponse:
        """Delete items by id or by filter."""
        collection = self._catalog.collection(request.collection)
        match request.WhichOneof("selection"):
            case "ids":
                outcome = await collection.delete(check_ids(request.ids.ids, "ids.ids", self._limits))
            case "filter":
                outcome = await collection.delete_matching(filter_from(request.filter))
            case _:
                raise InvalidArgumentError(
                    "ids", "neither ids nor a filter is given; an empty request deletes nothing."
                )
        return index_pb2.DeleteResponse(deleted=outcome.deleted, sequence=outcome.sequence)

    async def GetItems(self, request: index_pb2.GetItemsRequest, context: _Context) -> index_pb2.GetItemsResponse:
        """Read items by id."""
        ids = check_ids(request.ids, "ids", self._limits)
        collection = self._catalog.collection(request.collection)
        sequence = collection.sequence
        found = await collection.get(ids)
        return index_pb2.GetItemsResponse(
            items=await in_pieces(
                lambda item: stored_item_message(item, include_vector=request.include_vectors),
                (item for item in found if item is not None),
            ),
            missing_ids=[item_id for item_id, item in zip(ids, found, strict=True) if item is None],
            sequence=sequence,
        )

    async def ListItems(self, request: index_pb2.ListItemsRequest, context: _Context) -> index_pb2.ListItemsResponse:
        """List items in byte order of their ids, page by page."""
        filter_ = optional_filter_from(request)
        size = request.page_size or min(_PAGE_SIZE_DEFAULT, self._limits.page_size_max)
        if size > self._limits.page_size_max:
            raise InvalidArgumentError("page_size", f"is {size}; at most {self._limits.page_size_max} is accepted.")
        after = _id_of_token(request.page_token, self._limits)
        # One more than wanted tells whether this page is the last.
        found = await self._catalog.collection(request.collection).list_items(
            after=after, limit=size + 1, filter_=filter_
        )
        items = found[:size]
        return index_pb2.ListItemsResponse(
            items=await in_pieces(
                lambda item: stored_item_message(item, include_vector=request.include_vectors), items
            ),
            next_page_token=_token_of_id(items[-1].id) if len(found) > size else "",
        )

    async def GetThumbnails(
        self, request: index_pb2.GetThumbnailsRequest, context: _Context
    ) -> index_pb2.GetThumbnailsResponse:
        """Read the thumbnails that were stored with items."""
        ids = check_ids(request.ids, "ids", self._limits)
        thumbnails = await self._catalog.collection(request.collection).thumbnails(ids)
        return index_pb2.GetThumbnailsResponse(
            thumbnails=[
                index_pb2.Thumbnail(id=item_id, data=data or b"", media_type=_media_type(data or b""))
                for item_id, data in zip(ids, thumbnails, strict=True)
            ]
        )

    async def GetImage(self, request: index_pb2.GetImageRequest, context: _Context) -> index_pb2.GetImageResponse:
        """Read the picture that an item was made from."""
        check_id(request.id, "id", self._limits)
        data = await self._catalog.collection(request.collection).image(request.id)
        return index_pb2.GetImageResponse(data=data, media_type=_media_type(data))

    async def GetStats(self, request: index_pb2.GetStatsRequest, context: _Context) -> index_pb2.GetStatsResponse:
        """Tell how large a collection is and what it is made of."""
        collection = self._catalog.collection(request.collection)
        stats, images = await collection.stats(), collection.kept_images
        return index_pb2.GetStatsResponse(
            collection=collection.name,
            space_id=collection.space_id,
            embedding_dim=collection.dim,
            items=stats.item_count,
            distinct_vectors=sum(segment.node_count for segment in stats.segments) + stats.tail_row_count,
            tail_rows=stats.tail_row_count,
            segments=[
                index_pb2.SegmentStats(
                    name=segment.name,
                    rows=segment.row_count,
                    tombstones=segment.row_count - segment.live_count,
                    bytes=segment.file_bytes,
                )
                for segment in stats.segments
            ],
            sequence=stats.sequence,
            snapshot=generation_message(stats.generation) if stats.generation else None,
            disk_bytes=stats.disk_bytes,
            memory_bytes=stats.memory_bytes,
            recall=recall_message(stats.recall) if stats.recall else None,
            kept_images=kept_images_message(images) if images else None,
        )

    async def CreateSnapshot(
        self, request: index_pb2.CreateSnapshotRequest, context: _Context
    ) -> index_pb2.CreateSnapshotResponse:
        """Publish a generation."""
        generation = await self._catalog.collection(request.collection).snapshot()
        return index_pb2.CreateSnapshotResponse(snapshot=generation_message(generation))


async def _until(end: asyncio.Event, requests: AsyncIterator[T]) -> AsyncIterator[T]:
    """Yield what is received until the client has sent all, or `end` is set."""
    iterator = aiter(requests)
    ended = asyncio.ensure_future(end.wait())
    try:
        while not ended.done():
            following = asyncio.ensure_future(_next(iterator))
            try:
                await asyncio.wait({following, ended}, return_when=asyncio.FIRST_COMPLETED)
                request = following.result() if following.done() else None
            finally:
                following.cancel()
            if request is None:
                return
            yield request
    finally:
        ended.cancel()


async def _next(iterator: AsyncIterator[T]) -> T | None:
    return await anext(iterator, None)


def _check_names(request: index_pb2.IngestRequest, first_names: tuple[str, str]) -> None:
    for field, name, first_name in zip(
        ("collection", "model"), (request.collection, request.model), first_names, strict=True
    ):
        if name not in {"", first_name}:
            raise InvalidArgumentError(field, "cannot change within a stream.")


def _convert(message: item_pb2.Item) -> Item | InvalidArgumentError:
    try:
        return item_from(message)
    except InvalidArgumentError as error:
        return error


def _placed(outcome: ItemOutcome, number: int) -> ItemOutcome:
    """Return the outcome with the item's place in the request in its field path."""
    return outcome.within(f"items[{number}]") if isinstance(outcome, InvalidArgumentError) else outcome


def _media_type(data: bytes) -> str:
    return next((media_type for signature, media_type in _MEDIA_TYPES if data.startswith(signature)), "")


def _token_of_id(item_id: str) -> str:
    return base64.urlsafe_b64encode(item_id.encode()).decode()


def _id_of_token(token: str, limits: Limits) -> str:
    """Return the id behind a page token, `""` for none."""
    try:
        after = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidArgumentError("page_token", _NOT_GIVEN_OUT) from error
    if len(after.encode()) > limits.id_bytes_max:
        raise InvalidArgumentError("page_token", _NOT_GIVEN_OUT)
    return after
