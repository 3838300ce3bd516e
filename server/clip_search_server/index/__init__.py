"""Unit vectors in, neighbours out, durably. A synchronous library, safe from any thread.

Knows nothing of gRPC, models, pictures or asyncio. `Collection` and `DataFolder`, the folder of many collections, are
the ways in; maintenance (below) has functions of its own, and every other module is internal.

What happens to a write, and which file it lives in:

    collection.py    the public face; checks arguments (validation.py), joins the parts below
    writer.py        one thread; callers that wait together share one commit
    figures.py       how long commits, syncs and snapshots took
    store.py         SQLite, the source of truth: commits, durability (schema.py, rows.py; page_checksums.py guards
                     what the checksums of rows do not)
    transaction.py   what a write is in rows
    derived.py       what items are found by, in the same transactions: attributes.py, texts
    reader.py        connections for reading; store_state.py is what one state has to say
    state.py         the state in memory; publishes an immutable view.py after every commit
    tail.py          the newest vectors, scanned exactly
    sealing.py       one thread; turns the tail into segments, merges small ones, rebuilds those with many dead rows
    sealed.py        a segment's nodes joined to items: labels, ids, deaths
    segment.py       the protocol of an engine; hnswlib_segment.py, faiss_segment.py and usearch_segment.py keep it
    engines.py       which engine builds, which load
    tuning.py        how far a search of a segment must look to find what it should, asked what recent_queries.py keeps
    recall_watch.py  in idle time: how well recent queries are answered (recall.py), and what is tuned again for them
    generations.py   manifests that name segment files (segment_files.py, entries.py; files.py makes files durable)
    finder.py        answers searches: a state of the store and a view, both of one moment
    filtered.py      the nearest of those that are allowed
    filters.py       conditions on attributes; filter_sql.py finds what they allow
    text_sql.py      what words match, and how well; fusion.py joins two rankings
    recovery.py      from the files back to the state in memory
    scoring.py       normalization and cosines, the same on every path

Around collections, and while no server runs:

    kept_images.py   the pictures that items were made from, for a new model to embed (file: image_file.py)
    data_folder.py   collections' folders and their catalog (catalog_file.py), whole after any crash
    backup.py        whole copies of a data folder, and restore.py back again
    check.py         finds damage without changing a byte (check_collection.py, check_images.py; findings.py is what
                     comes out)
    rebuild.py       segments anew from the store, a catalog anew from the folders; compaction.py: a smaller store
    migrations.py    from older formats to the present one
    offline.py       reads that leave no trace; checked_json.py: small files that carry their own digest

Architecture invariants:

- The store is the truth; segments and generations only save the time of rebuilding. Deleting `generations/` and
  `segments/` of a closed collection loses nothing.
- A label stands for one id with one vector, for ever. An update makes a new label; labels are never given out twice.
- Deaths are numbers (the sequence of the write that caused them), so a reader with an older view sees what it saw.
- No reader takes a lock that a writer or builder holds while it works; taking a view is reading one attribute.
- Nothing is searched while it is built, and nothing is changed once it can be searched, except deaths and how widely
  it is searched.
- A score never depends on the path that found its item.
- What a search allows, matches and returns is of one committed state; a hit is tested against its own checked row.

The folder of a collection:

    lock                    held by the process that has it open (lock.py)
    store.sqlite3, -wal     the truth (tables: schema.py; how such files are born: own_sqlite.py)
    images.sqlite3, -wal    kept pictures, if any (tables: image_file.py); nothing else depends on them
    segments/NAME.*         written once when a segment is sealed (formats: segment_files.py)
    generations/N.json      small manifests, the two newest kept (format: generations.py)

Lifecycle of a segment: built in memory; its three files appear whole, each by temporary name, fsync, rename and fsync
of the folder; it is swapped in for the rows it was made from; a generation that names it is published; when a later
generation no longer needs it and the one before is forgotten, its files are removed. A crash between any two of these
steps leaves files that nobody names, never a manifest that names missing ones.

Formats are numbered together (`FORMAT_VERSION` in schema.py, SQLite's `user_version`); newer ones are refused.
"""

from clip_search_server.index.attributes import Attributes, AttributeValue, check_attributes
from clip_search_server.index.catalog_file import Space, check_name
from clip_search_server.index.collection import Collection
from clip_search_server.index.data_folder import DataFolder
from clip_search_server.index.figures import WriteFigures
from clip_search_server.index.filters import (
    AllOf,
    AnyOf,
    Bound,
    Comparable,
    Condition,
    Equals,
    Exists,
    Filter,
    Not,
    OneOf,
    Range,
)
from clip_search_server.index.kept_images import ImageBudget, KeptImages, KeptImagesStats
from clip_search_server.index.settings import EngineChoice, IndexSettings
from clip_search_server.index.types import (
    CollectionStats,
    DeleteOutcome,
    Found,
    Generation,
    Hit,
    Neighbour,
    Ranking,
    RecallEstimate,
    Record,
    Search,
    SearchOutcome,
    SegmentStats,
    StoredItem,
    UpsertOutcome,
)

__all__ = [
    "AllOf",
    "AnyOf",
    "AttributeValue",
    "Attributes",
    "Bound",
    "Collection",
    "CollectionStats",
    "Comparable",
    "Condition",
    "DataFolder",
    "DeleteOutcome",
    "EngineChoice",
    "Equals",
    "Exists",
    "Filter",
    "Found",
    "Generation",
    "Hit",
    "ImageBudget",
    "IndexSettings",
    "KeptImages",
    "KeptImagesStats",
    "Neighbour",
    "Not",
    "OneOf",
    "Range",
    "Ranking",
    "RecallEstimate",
    "Record",
    "Search",
    "SearchOutcome",
    "SegmentStats",
    "Space",
    "StoredItem",
    "UpsertOutcome",
    "WriteFigures",
    "check_attributes",
    "check_name",
]
