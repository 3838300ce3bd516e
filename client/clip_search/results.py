"""What callers get: typed results, one class for each answer of the API. Plain values that know nothing of messages.

Classes whose fields carry the names of a message's fields are filled from it by name; a test holds them to the protos.
Vectors have shape (dim,), type float32 and unit length, and take no part in comparisons.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from clip_search.errors import ClipSearchError

__all__ = [
    "Attribute",
    "Classification",
    "Classifications",
    "Collection",
    "Deletion",
    "Device",
    "EmbedOutcome",
    "Embeddings",
    "Hit",
    "ItemOutcome",
    "ItemPage",
    "ItemsFound",
    "KeptImages",
    "Limits",
    "Model",
    "RecallEstimate",
    "SearchResults",
    "SegmentStats",
    "ServerInfo",
    "Snapshot",
    "Stats",
    "StoredItem",
    "Thumbnail",
]

# As the server stores it; instants are in UTC.
Attribute: TypeAlias = str | bool | int | float | datetime | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """An item that was found; `score` is its cosine with the query, -1 to 1.

    `relevance` is what hits are ordered by when texts were ranked, without a unit; None when they are ordered by score.
    """

    id: str
    score: float
    attributes: Mapping[str, Attribute]
    vector: NDArray[np.float32] | None = field(default=None, compare=False)
    relevance: float | None = None


@dataclass(frozen=True, slots=True)
class SearchResults:
    """Hits, best first; writes up to `sequence` were seen, and scores were computed in the space `space_id`."""

    hits: tuple[Hit, ...]
    sequence: int
    space_id: str


@dataclass(frozen=True, slots=True)
class Classification:
    """How well one label fits: `probability` 0 to 1, `similarity` (cosine) -1 to 1."""

    label: str
    probability: float
    similarity: float


@dataclass(frozen=True, slots=True)
class Classifications:
    """Every label's fit, in the order of the request; `scoring` is `softmax` or `sigmoid`."""

    classifications: tuple[Classification, ...]
    scoring: str
    space_id: str


@dataclass(frozen=True, slots=True)
class EmbedOutcome:
    """The vector of one input, or why it has none: exactly one of the two is set."""

    vector: NDArray[np.float32] | None = field(compare=False)
    error: ClipSearchError | None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What became of each input, in order, and the space that the vectors belong to."""

    outcomes: tuple[EmbedOutcome, ...]
    space_id: str


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What became of one item to store.

    Args:
        index: position of the item among those given, from 0.
        id: its id.
        sequence: number of the write that stored it; None when it is not stored.
        replaced: whether it took the place of an item with the same id.
        error: why it is not stored; None when it is.
    """

    index: int
    id: str
    sequence: int | None
    replaced: bool
    error: ClipSearchError | None


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item as the collection holds it.

    `sequence` is the write that stored this version; `content_digest` is equal for items made from the same text or the
    same bytes of a picture, and may be empty.
    """

    id: str
    attributes: Mapping[str, Attribute]
    text: str
    has_thumbnail: bool
    sequence: int
    vector: NDArray[np.float32] | None = field(default=None, compare=False)
    content_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class ItemsFound:
    """The items that exist, and the ids that have none, both in the order of the request."""

    items: tuple[StoredItem, ...]
    missing_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ItemPage:
    """Some items in byte order of their ids; `next_page_token` is empty on the last page."""

    items: tuple[StoredItem, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """The small picture stored with an item; `data` and `media_type` are empty when there is none."""

    id: str
    data: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Deletion:
    """How many items were there and are deleted, and the number of that write."""

    deleted: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A published generation of the index; `create_time` is in UTC."""

    generation: int
    sequence: int
    create_time: datetime
    segments: int
    bytes: int


@dataclass(frozen=True, slots=True)
class SegmentStats:
    """One sealed part of the approximate index."""

    name: str
    rows: int
    tombstones: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RecallEstimate:
    """Share of the exact best hits that the approximate search gave too, and over how many queries."""

    recall: float
    queries: int


@dataclass(frozen=True, slots=True)
class KeptImages:
    """Pictures kept as they were sent, and how many items were stored without because `bytes_max` was reached."""

    images: int
    bytes: int
    bytes_max: int
    left_out: int


@dataclass(frozen=True, slots=True)
class Stats:
    """The figures of one collection.

    `snapshot` and `recall` are None until there is one, `kept_images` where the server keeps no pictures.
    """

    collection: str
    space_id: str
    embedding_dim: int
    items: int
    distinct_vectors: int
    tail_rows: int
    segments: tuple[SegmentStats, ...]
    sequence: int
    snapshot: Snapshot | None
    disk_bytes: int
    memory_bytes: int
    recall: RecallEstimate | None
    kept_images: KeptImages | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as it is listed; `aliases` in byte order, `embedding_dim` 0 where the server cannot open it.

    `unusable_reason` says why it cannot be searched or written to, empty where it can.
    """

    name: str
    space_id: str
    embedding_dim: int
    items: int
    aliases: tuple[str, ...]
    unusable_reason: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether it can be searched and written to."""
        return self.embedding_dim > 0 and not self.unusable_reason


@dataclass(frozen=True, slots=True)
class Model:
    """One model that the server serves."""

    name: str
    space_id: str
    source: str
    revision: str
    architecture: str
    licence: str
    embedding_dim: int
    context_length: int
    precision: str
    execution_provider: str
    bundle_digest: str
    is_default: bool


@dataclass(frozen=True, slots=True)
class Device:
    """A processor of the server; `memory_bytes` is 0 when unknown."""

    name: str
    description: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds that the server holds requests to, as `server.proto` explains them."""

    message_bytes_max: int
    items_per_request_max: int
    image_bytes_max: int
    image_pixels_max: int
    text_chars_max: int
    search_limit_max: int
    query_parts_max: int
    labels_max: int
    templates_max: int
    page_size_max: int
    id_bytes_max: int
    attributes_max: int
    attributes_bytes_max: int
    thumbnail_bytes_max: int
    filter_conditions_max: int
    filter_depth_max: int
    queue_length_max: int
    ingest_streams_max: int
    collections_max: int
    calls_max: int
    bytes_in_flight_max: int
    queue_seconds_max: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the server is and what it can take."""

    version: str
    models: tuple[Model, ...]
    devices: tuple[Device, ...]
    limits: Limits
