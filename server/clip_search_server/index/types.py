"""The values that cross the index's border: what is written, what comes back; knows nothing of how they are stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from clip_search_server.errors import InvalidArgumentError, NotFoundError
from clip_search_server.index.attributes import Attributes, AttributeValue
from clip_search_server.index.filters import Filter

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One item as a caller wants it stored; an upsert replaces everything the item had.

    Args:
        id: 1 to 512 bytes of UTF-8.
        vector: float (dim,), finite and non-zero; the index makes it unit length. None keeps the item's present vector.
        attributes: facts to filter by, by name.
        text: the item's own words, which rankings by text search.
        thumbnail: a small encoded picture, or ``b""``. None keeps the present one where the vector is kept too.
        content_digest: SHA-256 of the content the vector was made from, or ``b""``; kept with the vector where that
            is None.
        image: the encoded picture that the digest is of, where it is to be kept (kept_images.py), or ``b""``; the store
            itself does not take it.
    """

    id: str
    vector: FloatArray | None
    attributes: Attributes = field(default_factory=dict)
    text: str = ""
    thumbnail: bytes | None = b""
    content_digest: bytes = b""
    image: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class StoredItem:
    """One item as it is stored, every byte checked; `vector` is float32 (dim,) of unit length."""

    id: str
    sequence: int
    vector: FloatArray
    attributes: Mapping[str, AttributeValue]
    text: str
    content_digest: bytes
    has_thumbnail: bool


@dataclass(frozen=True, slots=True)
class UpsertOutcome:
    """What became of each record, in the order given: its sequence number, or why it was refused.

    `sequence` is the collection's sequence once the whole call is durable and visible; `replaced` tells for each record
    whether its id had an item before.
    """

    results: tuple[int | InvalidArgumentError | NotFoundError, ...]
    sequence: int
    replaced: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class DeleteOutcome:
    """How many of the ids existed and are gone, and the collection's sequence afterwards."""

    deleted: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One hit: the item's id and the cosine between its vector and the query, in [-1, 1]."""

    id: str
    score: float


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """Hits by descending score, ties by id, and the sequence of the state they were found in."""

    neighbours: tuple[Neighbour, ...]
    sequence: int


Ranking = Literal["vector", "text", "fused"]


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What to find and how to rank it.

    Args:
        query: float (dim,), finite and non-zero; need not be of unit length. Scores are cosines with it.
        limit: hits wanted, at least 1.
        offset: hits to pass over.
        ranking: ``vector`` by score; ``text`` by how well items' texts match `words` (BM25), items that match none of
            them left out; ``fused`` by both (reciprocal rank fusion).
        words: what `text` and `fused` look for in texts; any of them may match. No query language: every character is
            taken as text.
        filter: only items that it allows can be hits.
        exact: compare with every vector instead of walking the graphs.
        min_score: only items with at least this cosine can be hits.
    """

    query: npt.ArrayLike
    limit: int
    offset: int = 0
    ranking: Ranking = "vector"
    words: str = ""
    filter: Filter | None = None
    exact: bool = False
    min_score: float | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """An item that was found, its cosine with the query, and what ranked it where that is not the cosine."""

    item: StoredItem
    score: float
    relevance: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Hits, best first, all of the moment that `sequence` names: what they are, their scores and what allowed them."""

    hits: tuple[Hit, ...]
    sequence: int


@dataclass(frozen=True, slots=True)
class Generation:
    """A published manifest: everything up to `sequence` can be loaded from its segments and the store."""

    number: int
    sequence: int
    item_count: int
    segment_count: int
    file_bytes: int
    path: Path
    published_at: datetime


@dataclass(frozen=True, slots=True)
class SegmentStats:
    """One segment: its items including dead ones, the live ones, and its distinct vectors.

    `ef` and `recall` are what it was tuned to: candidates a search considers, and the share of the true ten nearest
    that samples found with them.
    """

    name: str
    row_count: int
    live_count: int
    node_count: int
    file_bytes: int
    engine: str
    ef: int
    recall: float | None


@dataclass(frozen=True, slots=True)
class RecallEstimate:
    """How well searches do against exact ones, for recent queries.

    Attributes:
        recall: share of the exact ten best that searches find.
        query_count: queries it rests on, each counted once.
        measured_at: when the newest of them was measured.
    """

    recall: float
    query_count: int
    measured_at: datetime


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """A collection at one moment.

    Attributes:
        item_count: live items.
        tail_row_count: rows scanned exactly because no segment holds them yet, dead ones included.
        generation: the newest published generation, None before the first.
        disk_bytes: size of all files of the collection.
        memory_bytes: size of the graphs and vectors that searches read, an estimate.
        recall: measured on recent queries while nothing else was to do; None until then.
        damage: one sentence for each piece of damage found since the collection was opened.
        write_failure: why writes are refused, or None while they are accepted.
        build_failure: why the newest background build failed, or None.
    """

    item_count: int
    sequence: int
    tail_row_count: int
    segments: tuple[SegmentStats, ...]
    generation: Generation | None
    disk_bytes: int
    memory_bytes: int
    recall: RecallEstimate | None
    damage: tuple[str, ...]
    write_failure: str | None
    build_failure: str | None
