"""Builds the collection that `bench_index.py` measures; knows nothing of what is measured.

Texts are asked first, so that segments are tuned for texts when they are sealed, as those of a collection in use are.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.index.data import SPACE, batches, new_pictures, texts
from bench.index.vectors import FloatArray
from clip_search_server.index import Collection, IndexSettings, Search
from clip_search_server.index.engines import chosen_engine

__all__ = ["KNOWN_TEXTS", "LIMIT", "TEXTS", "fill", "recall_of", "wait_until_built"]

#: Texts that collections were asked before, and those that they are measured with.
KNOWN_TEXTS, TEXTS = 200, 300
LIMIT = 10

_BATCH = 128
_BARE_ROWS = 16_384
_PATIENCE_SECONDS = 3600.0
_SETTLE_SECONDS_MAX = 120.0
_SETTLED_QUERIES = 32
_REPORT_SECONDS = 30.0


def fill(folder: Path, rows: int, dim: int, settings: IndexSettings) -> dict[str, Any]:
    """Write what is missing, wait until nothing is left to build or to tune; return what that took."""
    figures: dict[str, Any] = {"ceiling_build_per_s": _bare_build_per_second(rows, dim, settings)}
    watchful = replace(settings, recall_interval_seconds=1.0)
    collection = Collection.open(folder, dim=dim, space_id=SPACE, settings=watchful, progress=print)
    try:
        for query in texts(rows, dim, KNOWN_TEXTS):
            collection.find(Search(query, limit=LIMIT))
        missing = rows - collection.item_count
        started = told = time.perf_counter()
        for batch in batches(rows, dim, first=collection.item_count, size=_BATCH):
            collection.upsert(batch, patience_seconds=_PATIENCE_SECONDS)
            if time.perf_counter() - told > _REPORT_SECONDS:
                told = time.perf_counter()
                print(f"{collection.item_count} items after {told - started:.0f} s", flush=True)
        written = time.perf_counter()
        wait_until_built(collection, settings)
        built = time.perf_counter()
        figures |= {
            "rows": missing,
            "write_per_s": round(missing / (written - started)),
            "build_per_s": round(missing / (built - started)),
        }
        figures["settle_s"] = round(_settle(collection), 1)
        started = time.perf_counter()
        collection.snapshot()
        figures["snapshot_s"] = round(time.perf_counter() - started, 3)
    finally:
        collection.close()
    return figures


def recall_of(collection: Collection, queries: FloatArray) -> float:  # (queries, dim)
    """Return the share of the exact ten best that searches find."""
    found = wanted = 0
    for query in queries:
        exact = {hit.id for hit in collection.search(query, limit=LIMIT, exact=True).neighbours}
        found += len(exact & {hit.id for hit in collection.search(query, limit=LIMIT).neighbours})
        wanted += len(exact)
    return round(found / wanted, 4)


def wait_until_built(collection: Collection, settings: IndexSettings) -> None:
    """Return once all bounds hold that the builder keeps."""
    while True:
        stats = collection.stats()
        if stats.build_failure is not None:
            raise RuntimeError(stats.build_failure)
        if stats.tail_row_count < settings.tail_rows_max and len(stats.segments) <= settings.segments_max:
            return
        time.sleep(0.2)


def _settle(collection: Collection) -> float:
    """Wait while segments that miss the target are tuned again; return how long it took to the last of them."""
    started = changed = time.perf_counter()
    efs: list[int] = []
    while time.perf_counter() - started < _SETTLE_SECONDS_MAX:
        stats = collection.stats()
        now = [part.ef for part in stats.segments]
        if now != efs:
            efs, changed = now, time.perf_counter()
        # The estimate begins anew whenever a segment is tuned again.
        if not efs or (stats.recall is not None and stats.recall.query_count >= _SETTLED_QUERIES):
            break
        time.sleep(0.2)
    print(f"segments are searched with ef {efs}", flush=True)
    return changed - started


def _bare_build_per_second(rows: int, dim: int, settings: IndexSettings) -> int:
    """Return how fast the engine alone builds a first segment: each vector inserted once, nothing written."""
    vectors = new_pictures(rows, dim, min(rows, _BARE_ROWS))
    started = time.perf_counter()
    chosen_engine(settings, print).build(vectors, lambda: False)
    return round(len(vectors) / (time.perf_counter() - started))
