"""Time and recall of filtered searches, beside unfiltered ones of the same collection in the same run.

    .venv/bin/python -m bench.bench_filters [--items 100000] [--dim 64] [--queries 100]

Items have random vectors around random centres and four attributes: a number between 0 and 1, which range filters cut
at the wanted share, a bucket, a list of tags, and an instant. Every query has its own bounds, so that nothing repeats.
Each share is searched with the plan that the index chooses, and with each of its two plans alone, which is how the
crossover between them (`IndexSettings.filter_exact_factor`) is chosen. The ceiling is the unfiltered search.

Ends with one JSON line: median milliseconds and recall@10 against exact search. The bars: at 1 %, 10 % and 50 % the
recall is at least 0.98 and the median at most 5 times the unfiltered one.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from clip_search_server.index import (
    AllOf,
    Bound,
    Collection,
    Filter,
    IndexSettings,
    Not,
    OneOf,
    Range,
    Record,
    Search,
)

SPACE = "bench"
SHARES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.5)
BAR_SHARES = (0.01, 0.1, 0.5)
RATIO_MAX, RECALL_LEAST = 5.0, 0.98
LIMIT = 10
BATCH = 128
TAGS = ("dog", "cat", "bird", "fish", "horse")
START = datetime(2020, 1, 1, tzinfo=UTC)
PLANS = {
    "planned": IndexSettings(),
    "fetched": IndexSettings(filter_exact_factor=1e9),
    "tested": IndexSettings(filter_exact_factor=1e-9, filter_exact_rows_least=1, filter_candidates_max=100_000),
}

Floats = npt.NDArray[np.float32]


def main() -> int:
    """Fill, measure, print; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="Keep the collection in this folder, and use what is there.")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="bench-filters-"))
    try:
        figures = _run(folder, options.items, options.dim, options.queries)
    finally:
        if options.keep is None:
            shutil.rmtree(folder)
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


def _run(folder: Path, items: int, dim: int, queries: int) -> dict[str, object]:
    vectors = _vectors(items + queries, dim)
    rows_per_second = _fill(folder, vectors[:items])
    rows: dict[str, dict[str, float]] = {}
    for plan, settings in PLANS.items():
        collection = Collection.open(folder, dim=dim, space_id=SPACE, settings=settings)
        for name, make in _filters().items():
            if plan == "planned" or name.startswith("share"):
                rows[f"{name} {plan}"] = _measure(collection, vectors[items:], make)
                print(f"{name:24} {plan:8} {rows[f'{name} {plan}']}", flush=True)
        collection.close()
    bars = [rows[f"share {share} planned"] for share in BAR_SHARES]
    return {
        "bench": "filters",
        "items": items,
        "dim": dim,
        "upserts_per_second": rows_per_second,
        "rows": rows,
        "passed": all(row["ratio"] <= RATIO_MAX and row["recall"] >= RECALL_LEAST for row in bars),
    }


def _filters() -> dict[str, Callable[[np.random.Generator], Filter]]:
    def share_of(share: float) -> Callable[[np.random.Generator], Filter]:
        def make(random: np.random.Generator) -> Filter:
            low = float(random.random() * (1 - share))
            return Range("draw", Bound(low, inclusive=True), Bound(low + share, inclusive=False))

        return make

    def conjunction(random: np.random.Generator) -> Filter:
        moment = START + timedelta(days=float(random.random() * 1000))
        wanted = tuple(str(tag) for tag in random.choice(TAGS, 2, replace=False))
        return AllOf((Range("made", Bound(moment, inclusive=True), None), OneOf("tags", wanted)))

    named = {f"share {share}": share_of(share) for share in SHARES}
    named["made >= … and tags in (…)"] = conjunction
    named["not (share 0.01)"] = lambda random: Not(share_of(0.01)(random))
    return named


def _vectors(count: int, dim: int) -> Floats:
    random = np.random.default_rng(1)
    centres = random.normal(size=(max(1, count // 100), dim))
    vectors = centres[random.integers(len(centres), size=count)] + 0.5 * random.normal(size=(count, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def _fill(folder: Path, vectors: Floats) -> float:
    """Write and seal everything; return rows a second while writing, waits for sealing left out."""
    random = np.random.default_rng(2)
    collection = Collection.open(folder, dim=vectors.shape[1], space_id=SPACE)
    missing = range(collection.stats().item_count, len(vectors), BATCH)
    seconds = 0.0
    for start in missing:
        records = [_record(start + at, vector, random) for at, vector in enumerate(vectors[start : start + BATCH])]
        collection.wait_for_room(600.0)
        started = time.perf_counter()
        collection.upsert(records)
        seconds += time.perf_counter() - started
    while collection.stats().tail_row_count >= IndexSettings().tail_rows_max:
        time.sleep(0.5)
    collection.close()
    return round(len(missing) * BATCH / seconds) if seconds else 0


def _record(number: int, vector: Floats, random: np.random.Generator) -> Record:
    return Record(
        f"pictures/{number:08d}.jpg",
        vector,
        {
            "draw": float(random.random()),
            "bucket": int(random.integers(100)),
            "tags": tuple(str(tag) for tag in random.choice(TAGS, 2, replace=False)),
            "made": START + timedelta(seconds=int(random.integers(10**8))),
        },
        text=f"picture {number} of {TAGS[number % len(TAGS)]}",
    )


def _measure(
    collection: Collection, queries: Floats, make: Callable[[np.random.Generator], Filter]
) -> dict[str, float]:
    """Time searches with and without the filter in turn, and compare with exact search."""
    random = np.random.default_rng(3)
    plain_ms, filtered_ms = [], []
    found_count = wanted_count = 0
    for number, query in enumerate(queries):
        filter_ = make(random)
        started = time.perf_counter()
        collection.find(Search(query, limit=LIMIT))
        between = time.perf_counter()
        found = collection.find(Search(query, limit=LIMIT, filter=filter_))
        ended = time.perf_counter()
        plain_ms.append((between - started) * 1e3)
        filtered_ms.append((ended - between) * 1e3)
        if number % 5 == 0:
            exact = collection.find(Search(query, limit=LIMIT, filter=filter_, exact=True))
            found_count += len({hit.item.id for hit in found.hits} & {hit.item.id for hit in exact.hits})
            wanted_count += len(exact.hits)
    return {
        "unfiltered_ms": round(median(plain_ms), 3),
        "filtered_ms": round(median(filtered_ms), 3),
        "ratio": round(median(filtered_ms) / median(plain_ms), 2),
        "recall": round(found_count / wanted_count, 4),
    }


if __name__ == "__main__":
    sys.exit(main())
