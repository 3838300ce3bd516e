"""Messages to domain values and back; knows nothing of how they are used."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from grpc import aio

from clip_search.v1 import content_pb2, index_pb2, item_pb2, search_pb2
from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.encoder import Vector
from clip_search_server.errors import ClipSearchError, InvalidArgumentError
from clip_search_server.index import Filter, Generation, Hit, KeptImagesStats, Ranking, RecallEstimate, StoredItem
from clip_search_server.limits import Limits
from clip_search_server.rpc.convert_attributes import attribute_from, attribute_messages
from clip_search_server.rpc.convert_filter import filter_from
from clip_search_server.rpc.errors import status_of
from clip_search_server.search.content import Content, ImageContent, ItemContent, TextContent, VectorContent
from clip_search_server.search.ingest import Item, ItemOutcome, check_id
from clip_search_server.search.query import Query, QueryPart

__all__ = [
    "check_ids",
    "content_from",
    "generation_message",
    "hit_message",
    "item_from",
    "item_result_message",
    "kept_images_message",
    "optional_filter_from",
    "query_from",
    "recall_message",
    "stored_item_message",
    "urgency_of",
    "vector_message",
]

_RANKINGS: Mapping[int, Ranking] = {
    search_pb2.RANKING_UNSPECIFIED: "vector",
    search_pb2.RANKING_VECTOR: "vector",
    search_pb2.RANKING_TEXT: "text",
    search_pb2.RANKING_FUSED: "fused",
}


def urgency_of(context: aio.ServicerContext[Any, Any], *, bulk: bool = False) -> Urgency:
    """Return the deadline that the caller gave, and who it is: a connection, until there are names to go by."""
    remaining: float | None = context.time_remaining()  # the stubs forget that there may be no deadline
    return Urgency(None if remaining is None else time.monotonic() + remaining, bulk=bulk, client=context.peer())


def content_from(message: content_pb2.Content, field: str) -> Content:
    """Return the content that was sent as `field`.

    Raises:
        InvalidArgumentError: no kind is set.
    """
    match message.WhichOneof("kind"):
        case "text":
            return TextContent(message.text)
        case "image":
            return ImageContent(message.image)
        case "vector":
            return VectorContent(np.array(message.vector.values, dtype=np.float32))
        case "item_id":
            return ItemContent(message.item_id)
    raise InvalidArgumentError(field, "is empty; set a text, an image, a vector or an item_id.")


def query_from(request: search_pb2.SearchRequest) -> Query:
    """Return a query.

    Raises:
        InvalidArgumentError: a part has no content, the ranking is unknown, or the filter is not set.
    """
    parts = [
        QueryPart(
            content_from(part.content, f"parts[{number}].content"), part.weight if part.HasField("weight") else 1.0
        )
        for number, part in enumerate(request.parts)
    ]
    return Query(
        parts,
        limit=request.limit,
        offset=request.offset,
        ranking=_ranking_from(request.ranking),
        filter=optional_filter_from(request),
        exact=request.exact,
        min_score=request.min_score if request.HasField("min_score") else None,
        at_least_sequence=request.at_least_sequence if request.HasField("at_least_sequence") else None,
    )


def optional_filter_from(request: search_pb2.SearchRequest | index_pb2.ListItemsRequest) -> Filter | None:
    """Return the filter of a request, None where it has none.

    Raises:
        InvalidArgumentError: as `filter_from`.
    """
    return filter_from(request.filter) if request.HasField("filter") else None


def _ranking_from(number: int) -> Ranking:
    ranking = _RANKINGS.get(number)
    if ranking is None:
        raise InvalidArgumentError("ranking", f"{number} is none that this server knows.")
    return ranking


def check_ids(ids: Sequence[str], field: str, limits: Limits) -> list[str]:
    """Return `ids` without repetition, in order.

    Raises:
        InvalidArgumentError: there are none or too many, or one of them is too long.
    """
    distinct = dict.fromkeys(ids)
    if not 1 <= len(distinct) <= limits.items_per_request_max:
        raise InvalidArgumentError(field, f"has {len(distinct)} ids; 1 to {limits.items_per_request_max} are accepted.")
    for number, item_id in enumerate(ids):
        check_id(item_id, f"{field}[{number}]", limits)
    return list(distinct)


def item_from(message: item_pb2.Item) -> Item:
    """Return an item.

    Raises:
        InvalidArgumentError: a content or an attribute has no kind.
    """
    content = content_from(message.content, "content") if message.HasField("content") else None
    attributes = {name: attribute_from(value, f"attributes[{name!r}]") for name, value in message.attributes.items()}
    return Item(message.id, content, attributes, message.text, message.thumbnail)


def vector_message(vector: Vector) -> content_pb2.Vector:
    """Return a vector's message."""
    return content_pb2.Vector(values=vector.tolist())


def stored_item_message(item: StoredItem, *, include_vector: bool) -> item_pb2.StoredItem:
    """Return the message of an item as stored."""
    return item_pb2.StoredItem(
        id=item.id,
        attributes=attribute_messages(item.attributes),
        text=item.text,
        vector=vector_message(item.vector) if include_vector else None,
        has_thumbnail=item.has_thumbnail,
        sequence=item.sequence,
        content_digest=item.content_digest,
    )


def hit_message(hit: Hit, *, include_vector: bool) -> search_pb2.Hit:
    """Return the message of a hit."""
    return search_pb2.Hit(
        id=hit.item.id,
        score=hit.score,
        relevance=hit.relevance,
        attributes=attribute_messages(hit.item.attributes),
        vector=vector_message(hit.item.vector) if include_vector else None,
    )


def item_result_message(index: int, item_id: str, outcome: ItemOutcome) -> item_pb2.ItemResult:
    """Return what became of one item."""
    if isinstance(outcome, ClipSearchError):
        return item_pb2.ItemResult(index=index, id=item_id, error=status_of(outcome))
    stored = item_pb2.Stored(sequence=outcome.sequence, replaced=outcome.replaced)
    return item_pb2.ItemResult(index=index, id=item_id, stored=stored)


def generation_message(generation: Generation) -> index_pb2.SnapshotInfo:
    """Return the message of a published generation."""
    info = index_pb2.SnapshotInfo(
        generation=generation.number,
        sequence=generation.sequence,
        segments=generation.segment_count,
        bytes=generation.file_bytes,
    )
    info.create_time.FromDatetime(generation.published_at)
    return info


def recall_message(estimate: RecallEstimate) -> index_pb2.RecallEstimate:
    """Return the message of a recall estimate."""
    return index_pb2.RecallEstimate(recall=estimate.recall, queries=estimate.query_count)


def kept_images_message(stats: KeptImagesStats) -> index_pb2.KeptImages:
    """Return the message of what pictures are kept."""
    return index_pb2.KeptImages(
        images=stats.images, bytes=stats.bytes, bytes_max=stats.bytes_max, left_out=stats.left_out
    )
