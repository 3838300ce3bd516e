"""Messages to domain values and back; knows nothing of how they are used."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from google.protobuf.message import Message
from grpc import aio

from clip_search.v1 import content_pb2, index_pb2, item_pb2, search_pb2
from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.encoder import Vector
from clip_search_server.errors import ClipSearchError, InvalidArgumentError, UnimplementedError
from clip_search_server.index import Generation, StoredItem
from clip_search_server.limits import Limits
from clip_search_server.rpc.errors import status_of
from clip_search_server.search.attributes import AttributeValue, decode_attributes
from clip_search_server.search.content import Content, ImageContent, ItemContent, TextContent, VectorContent
from clip_search_server.search.ingest import Item, ItemOutcome, check_id
from clip_search_server.search.query import Hit, Query, QueryPart

__all__ = [
    "check_ids",
    "content_from",
    "generation_message",
    "hit_message",
    "item_from",
    "item_result_message",
    "query_from",
    "refuse_filter",
    "stored_item_message",
    "urgency_of",
    "vector_message",
]


def urgency_of(context: aio.ServicerContext[Any, Any], *, bulk: bool = False) -> Urgency:
    """Return the deadline that the caller gave."""
    remaining: float | None = context.time_remaining()  # the stubs forget that there may be no deadline
    return Urgency(None if remaining is None else time.monotonic() + remaining, bulk=bulk)


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
        InvalidArgumentError: a part has no content.
        UnimplementedError: a filter, or a ranking other than by vector.
    """
    refuse_filter(request)
    if request.ranking not in {search_pb2.RANKING_UNSPECIFIED, search_pb2.RANKING_VECTOR}:
        raise UnimplementedError("ranking: this release ranks by vector only.")
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
        exact=request.exact,
        min_score=request.min_score if request.HasField("min_score") else None,
        at_least_sequence=request.at_least_sequence if request.HasField("at_least_sequence") else None,
    )


def refuse_filter(request: Message) -> None:
    """Raise UnimplementedError when `request` has a filter."""
    if request.HasField("filter"):
        raise UnimplementedError("filter: this release does not filter by attributes yet.")


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
    attributes = {name: _attribute_from(name, value) for name, value in message.attributes.items()}
    return Item(message.id, content, attributes, message.text, message.thumbnail)


def _attribute_from(name: str, message: item_pb2.AttributeValue) -> AttributeValue:
    kind = message.WhichOneof("kind")
    match kind:
        case "timestamp_value":
            try:
                return message.timestamp_value.ToDatetime(tzinfo=UTC)
            except (OverflowError, ValueError) as error:
                raise InvalidArgumentError(f"attributes[{name!r}]", "is outside the years 1 to 9999.") from error
        case "string_list_value":
            return tuple(message.string_list_value.values)
        case None:
            raise InvalidArgumentError(f"attributes[{name!r}]", "has no value.")
        case _:
            value: AttributeValue = getattr(message, kind)
            return value


def _attribute_message(value: AttributeValue) -> item_pb2.AttributeValue:
    message = item_pb2.AttributeValue()
    match value:
        case bool():
            message.bool_value = value
        case int():
            message.int_value = value
        case float():
            message.double_value = value
        case datetime():
            message.timestamp_value.FromDatetime(value)
        case tuple():
            message.string_list_value.SetInParent()
            message.string_list_value.values.extend(value)
        case _:
            message.string_value = value
    return message


def _attribute_messages(stored: bytes) -> Mapping[str, item_pb2.AttributeValue]:
    return {name: _attribute_message(value) for name, value in decode_attributes(stored).items()}


def vector_message(vector: Vector) -> content_pb2.Vector:
    """Return a vector's message."""
    return content_pb2.Vector(values=vector.tolist())


def stored_item_message(item: StoredItem, *, include_vector: bool) -> item_pb2.StoredItem:
    """Return the message of an item as stored."""
    return item_pb2.StoredItem(
        id=item.id,
        attributes=_attribute_messages(item.attributes),
        text=item.text,
        vector=vector_message(item.vector) if include_vector else None,
        has_thumbnail=item.has_thumbnail,
        sequence=item.sequence,
    )


def hit_message(hit: Hit, *, include_vector: bool) -> search_pb2.Hit:
    """Return the message of a hit."""
    return search_pb2.Hit(
        id=hit.item.id,
        score=hit.score,
        attributes=_attribute_messages(hit.item.attributes),
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
