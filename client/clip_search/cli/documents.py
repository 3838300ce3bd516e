"""The shapes of the JSON documents that `search_client --json` prints; keys are never renamed or removed.

    attributes       object: text, number, true / false; instants as ISO 8601 in UTC; lists of texts
    hit              rank (from 1), id, score, attributes; relevance (when it is what hits are ordered by)
    item             id, attributes, text, has_thumbnail, sequence; vector (when asked for)
    classification   label, probability, similarity
    collection       name, space_id, embedding_dim (0: the server cannot open it), items, aliases, unusable_reason
    snapshot         generation, sequence, create_time, segments, bytes

Scores, similarities and probabilities are rounded to 6 places, which is what their 32 bits hold, relevances to 6
digits. Numbers that JSON has
no way to write become texts: "NaN", "Infinity", "-Infinity".
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_search.results import Attribute, Classification, Collection, Hit, Snapshot, Stats, StoredItem

__all__ = [
    "attributes_document",
    "classification_document",
    "collection_document",
    "hit_document",
    "item_document",
    "snapshot_document",
    "stats_document",
    "time_text",
    "vector_document",
]

_SCORE_PLACES = 6
_RELEVANCE_DIGITS = 6


def attributes_document(attributes: Mapping[str, Attribute]) -> dict[str, Any]:
    """Give attributes as JSON."""
    return {name: _attribute(value) for name, value in attributes.items()}


def _attribute(value: Attribute) -> Any:  # noqa: ANN401  # any JSON value
    match value:
        case datetime():
            return time_text(value)
        case tuple():
            return list(value)
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case _:
            return value


def time_text(moment: datetime) -> str:
    """Give an instant as ISO 8601 in UTC, such as `2026-05-04T12:00:00Z`."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def vector_document(vector: NDArray[np.float32]) -> list[float]:
    """Give a vector of shape (dim,) as numbers with just the digits that tell one float32 from the next."""
    return [float(str(value)) for value in vector]


def hit_document(rank: int, hit: Hit) -> dict[str, Any]:
    """Give a hit as JSON."""
    attributes = attributes_document(hit.attributes)
    document = {"rank": rank, "id": hit.id, "score": round(hit.score, _SCORE_PLACES), "attributes": attributes}
    if hit.relevance is not None:
        document["relevance"] = float(f"{hit.relevance:.{_RELEVANCE_DIGITS}g}")
    return document


def item_document(item: StoredItem) -> dict[str, Any]:
    """Give a stored item as JSON."""
    document: dict[str, Any] = {
        "id": item.id,
        "attributes": attributes_document(item.attributes),
        "text": item.text,
        "has_thumbnail": item.has_thumbnail,
        "sequence": item.sequence,
    }
    if item.vector is not None:
        document["vector"] = vector_document(item.vector)
    return document


def classification_document(classification: Classification) -> dict[str, Any]:
    """Give a label's fit as JSON."""
    return {
        "label": classification.label,
        "probability": round(classification.probability, _SCORE_PLACES),
        "similarity": round(classification.similarity, _SCORE_PLACES),
    }


def collection_document(collection: Collection) -> dict[str, Any]:
    """Give a collection's description as JSON."""
    return {**asdict(collection), "aliases": list(collection.aliases)}


def snapshot_document(snapshot: Snapshot) -> dict[str, Any]:
    """Give a snapshot as JSON."""
    return {**asdict(snapshot), "create_time": time_text(snapshot.create_time)}


def stats_document(stats: Stats) -> dict[str, Any]:
    """Give a collection's figures as JSON; `snapshot`, `recall` and `kept_images` are null where there is none."""
    snapshot = None if stats.snapshot is None else snapshot_document(stats.snapshot)
    return {**asdict(stats), "snapshot": snapshot}
