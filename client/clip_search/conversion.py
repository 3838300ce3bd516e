"""Between the API's messages and the client's plain values; knows nothing of calls, errors aside.

Messages are read leniently: what a newer server adds is passed over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from clip_search import contents, results
from clip_search.statuses import error_from_status
from clip_search.v1 import collection_pb2, content_pb2, embedding_pb2, index_pb2, item_pb2, search_pb2, server_pb2

__all__ = [
    "attribute_message",
    "classifications_of",
    "collection_of",
    "content_message",
    "embeddings_of",
    "item_message",
    "outcome_of",
    "part_message",
    "search_results_of",
    "server_info_of",
    "snapshot_of",
    "stats_of",
    "stored_item_of",
]

_Flat = TypeVar("_Flat")


# ── Values to messages ───────────────────────────────────────────────────────────────────────────────────────────────


def content_message(content: contents.Content) -> content_pb2.Content:
    """Build the message of a content."""
    match content:
        case contents.Text(text):
            return content_pb2.Content(text=text)
        case contents.Image(data):
            return content_pb2.Content(image=data)
        case contents.Vector(values):
            return content_pb2.Content(vector=content_pb2.Vector(values=np.asarray(values, np.float32).ravel()))
        case contents.ItemId(item_id):
            return content_pb2.Content(item_id=item_id)


def part_message(part: contents.Part) -> search_pb2.QueryPart:
    """Build the message of a query part."""
    return search_pb2.QueryPart(content=content_message(part.content), weight=part.weight)


def item_message(item: contents.Item) -> item_pb2.Item:
    """Build the message of an item."""
    return item_pb2.Item(
        id=item.id,
        content=None if item.content is None else content_message(item.content),
        attributes={name: attribute_message(value) for name, value in item.attributes.items()},
        text=item.text,
        thumbnail=item.thumbnail,
    )


def attribute_message(value: contents.AttributeValue) -> item_pb2.AttributeValue:
    """Build the message of the value of an attribute."""
    match value:
        case str():
            return item_pb2.AttributeValue(string_value=value)
        case bool():  # before int: a bool is one
            return item_pb2.AttributeValue(bool_value=value)
        case int():
            return item_pb2.AttributeValue(int_value=value)
        case float():
            return item_pb2.AttributeValue(double_value=value)
        case datetime():
            timestamp = Timestamp()
            timestamp.FromDatetime(value)
            return item_pb2.AttributeValue(timestamp_value=timestamp)
        case _:
            return item_pb2.AttributeValue(string_list_value=item_pb2.StringList(values=value))


# ── Messages to values ───────────────────────────────────────────────────────────────────────────────────────────────


def _flat(kind: type[_Flat], message: Message) -> _Flat:
    """Fill a dataclass from the fields of the same names of a message."""
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]  # every caller passes a dataclass
    return kind(**{name: getattr(message, name) for name in names})


def _attributes(message: Mapping[str, item_pb2.AttributeValue]) -> dict[str, results.Attribute]:
    """Give attributes by name, sorted; those of a kind that this client does not know are left out."""
    read = {name: _attribute(message[name]) for name in sorted(message)}
    return {name: value for name, value in read.items() if value is not None}


def _attribute(value: item_pb2.AttributeValue) -> results.Attribute | None:
    kind = value.WhichOneof("kind")
    if kind is None:
        return None
    if kind == "timestamp_value":
        return value.timestamp_value.ToDatetime(tzinfo=UTC)
    if kind == "string_list_value":
        return tuple(value.string_list_value.values)
    plain: str | int | float | bool = getattr(value, kind)
    return plain


def _vector(values: Sequence[float]) -> NDArray[np.float32] | None:
    """Give an array of shape (dim,); None when the message carries no vector."""
    return np.array(values, np.float32) if values else None


def search_results_of(response: search_pb2.SearchResponse) -> results.SearchResults:
    """Read the answer to a search."""
    return results.SearchResults(tuple(map(_hit, response.hits)), response.sequence, response.space_id)


def _hit(hit: search_pb2.Hit) -> results.Hit:
    return results.Hit(
        hit.id,
        hit.score,
        _attributes(hit.attributes),
        _vector(hit.vector.values),
        hit.relevance if hit.HasField("relevance") else None,
    )


def classifications_of(response: search_pb2.ClassifyResponse) -> results.Classifications:
    """Read the answer to a classification."""
    known = response.scoring in search_pb2.Scoring.values()
    scoring = search_pb2.Scoring.Name(response.scoring) if known else str(response.scoring)
    return results.Classifications(
        tuple(_flat(results.Classification, each) for each in response.classifications),
        scoring.removeprefix("SCORING_").lower(),
        response.space_id,
    )


def embeddings_of(response: embedding_pb2.EmbedResponse) -> results.Embeddings:
    """Read the answer to an embedding request."""
    return results.Embeddings(tuple(_embed_outcome(each) for each in response.results), response.space_id)


def _embed_outcome(result: embedding_pb2.EmbedResult) -> results.EmbedOutcome:
    if result.HasField("error"):
        return results.EmbedOutcome(None, error_from_status(result.error))
    return results.EmbedOutcome(np.array(result.embedding.values, np.float32), None)


def outcome_of(result: item_pb2.ItemResult) -> results.ItemOutcome:
    """Read what became of one item."""
    if result.HasField("error"):
        return results.ItemOutcome(result.index, result.id, None, False, error_from_status(result.error))
    return results.ItemOutcome(result.index, result.id, result.stored.sequence, result.stored.replaced, None)


def stored_item_of(item: item_pb2.StoredItem) -> results.StoredItem:
    """Read a stored item."""
    return results.StoredItem(
        item.id,
        _attributes(item.attributes),
        item.text,
        item.has_thumbnail,
        item.sequence,
        _vector(item.vector.values),
        item.content_digest,
    )


def snapshot_of(snapshot: index_pb2.SnapshotInfo) -> results.Snapshot:
    """Read a snapshot."""
    created = snapshot.create_time.ToDatetime(tzinfo=UTC)
    return results.Snapshot(snapshot.generation, snapshot.sequence, created, snapshot.segments, snapshot.bytes)


def stats_of(response: index_pb2.GetStatsResponse) -> results.Stats:
    """Read a collection's figures."""
    converted: dict[str, Any] = {
        "segments": tuple(_flat(results.SegmentStats, segment) for segment in response.segments),
        "snapshot": snapshot_of(response.snapshot) if response.HasField("snapshot") else None,
        "recall": _flat(results.RecallEstimate, response.recall) if response.HasField("recall") else None,
        "kept_images": _flat(results.KeptImages, response.kept_images) if response.HasField("kept_images") else None,
    }
    plain = {each.name: getattr(response, each.name) for each in fields(results.Stats) if each.name not in converted}
    return results.Stats(**plain, **converted)


def collection_of(message: collection_pb2.Collection) -> results.Collection:
    """Read a collection's description."""
    aliases = tuple(message.aliases)
    return results.Collection(
        message.name, message.space_id, message.embedding_dim, message.items, aliases, message.unusable_reason
    )


def server_info_of(response: server_pb2.GetServerInfoResponse) -> results.ServerInfo:
    """Read what a server is."""
    return results.ServerInfo(
        response.version,
        tuple(_flat(results.Model, model) for model in response.models),
        tuple(_flat(results.Device, device) for device in response.devices),
        _flat(results.Limits, response.limits),
    )
