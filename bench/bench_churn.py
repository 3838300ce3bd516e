"""What many updates do to a collection: recall, memory and files beside those of a fresh build of the same items.

    python -m bench.bench_churn [--rows 20000] [--dim 128] [--rounds 100] [--engine faiss]

Each round gives a fifth of the items, drawn anew, another picture's vector. An update leaves a dead row behind, so in a
hundred rounds each item is replaced about twenty times. Afterwards nobody writes, and the builder leaves out what dead
rows there are (`IndexSettings.quiet_seconds`). Another process fills a second collection with the same items once.

Ends with one JSON line: `updated` right after the rounds, `quiet` after the quiet, and `fresh`. The bars: recall at
most 0.01 below the fresh build's; and after the quiet, memory and files at most a tenth above it. `index_bytes` are
graphs, vectors and tail as the collection counts them, `resident_bytes` what the process has in memory beyond its base,
`segment_bytes` the files in `segments/`. `store_bytes` is the store with its log folded, which keeps the room of
deleted rows until `clip-search rebuild` frees it: `rebuilt_store_bytes` is compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from bench.index.data import SPACE, item_id
from bench.index.fill import recall_of, wait_until_built
from bench.index.resident import resident
from bench.index.vectors import PICTURES_PER_CONCEPT, Parameters, Space
from clip_search_server.allocator import give_back_large_blocks
from clip_search_server.index import Collection, EngineChoice, IndexSettings, Record
from clip_search_server.index.engines import chosen_engine
from clip_search_server.index.rebuild import rebuild_collection
from clip_search_server.index.schema import STORE_NAME
from clip_search_server.interpreter import prefer_latency

__all__ = ["CACHES_BYTES", "Items", "State", "fresh", "shortfalls", "updated"]

SHARE = 0.2
RECALL_LOSS_MAX = 0.01
GROWTH_MAX = 1.1
#: SQLite's caches and the allocator's reserves fill once, whatever the collection's size.
CACHES_BYTES = 32 << 20

_TEXTS = 200
_BATCH = 128
_PATIENCE_SECONDS = 3600.0
_WAIT_SECONDS_MAX = 1800.0
_REPORTED_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class State:
    """What a collection is like at one moment; see the module."""

    recall: float
    rows: int
    dead_rows: int
    segments: int
    index_bytes: int
    segment_bytes: int
    resident_bytes: int


class Items:
    """Items whose vectors change from round to round, the same way every time.

    Args:
        rows: items.
        dim: components of a vector.
    """

    def __init__(self, rows: int, dim: int) -> None:
        self._space = Space(Parameters.load(), dim=dim, concepts=max(1, rows // PICTURES_PER_CONCEPT), seed=1)
        self._random = np.random.default_rng(3)
        self.texts = self._space.another(2).texts(_TEXTS)  # (texts, dim)
        self.vectors = self._space.pictures(rows)  # (rows, dim)

    def change(self) -> Iterator[list[Record]]:
        """Give a share of the items other vectors, and return their records in batches."""
        chosen = self._random.choice(len(self.vectors), int(SHARE * len(self.vectors)), replace=False)
        self.vectors[chosen] = self._space.pictures(len(chosen))
        return self._batches(chosen.tolist())

    def all(self) -> Iterator[list[Record]]:
        """Return the records of all items, in batches."""
        return self._batches(list(range(len(self.vectors))))

    def _batches(self, rows: list[int]) -> Iterator[list[Record]]:
        for start in range(0, len(rows), _BATCH):
            yield [Record(item_id(row), self.vectors[row]) for row in rows[start : start + _BATCH]]


def main() -> int:
    """Run both workers, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--engine", choices=get_args(EngineChoice), default=IndexSettings().engine)
    parser.add_argument("--tail-rows", type=int, default=IndexSettings().tail_rows_max)
    parser.add_argument("--worker", choices=["updated", "fresh"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        print(json.dumps(_work(arguments)))
        return 0
    figures = {
        "bench": "churn",
        **{name: getattr(arguments, name) for name in ("rows", "dim", "rounds", "engine")},
        **_run("updated"),
        **_run("fresh"),
    }
    failed = shortfalls(**{name: State(**figures[name]) for name in ("updated", "quiet", "fresh")})
    ours, theirs = figures["rebuilt_store_bytes"], figures["fresh_store_bytes"]
    if ours > GROWTH_MAX * theirs:
        failed.append(f"the rebuilt store has {ours} bytes, a fresh one {theirs}")
    print(json.dumps(figures | {"shortfalls": failed, "passed": not failed}))
    return 0


def _run(worker: str) -> dict[str, Any]:
    """Let a process of its own work with the same arguments; return its figures."""
    words = [sys.executable, "-m", "bench.bench_churn", *sys.argv[1:], "--worker", worker]
    *lines, last = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    print("\n".join(lines))
    figures: dict[str, Any] = json.loads(last)
    return figures


def _work(arguments: argparse.Namespace) -> dict[str, Any]:
    prefer_latency()
    give_back_large_blocks()
    settings = IndexSettings(engine=arguments.engine, tail_rows_max=arguments.tail_rows, quiet_seconds=1.0)
    items = Items(arguments.rows, arguments.dim)
    chosen_engine(settings, print)  # Its library is part of the base.
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.worker == "fresh":
            for _ in range(arguments.rounds):
                items.change()
            return {"fresh": asdict(fresh(folder, items, settings)), "fresh_store_bytes": store_bytes(folder)}
        started = time.perf_counter()
        after, quiet = updated(folder, items, arguments.rounds, settings, report=print)
        seconds = time.perf_counter() - started
        states = {"updated": asdict(after), "quiet": asdict(quiet), "store_bytes": store_bytes(folder)}
        rebuild_collection(folder, "churn", report=print, settings=settings)
        return {**states, "rebuilt_store_bytes": store_bytes(folder), "seconds": round(seconds, 1)}


def updated(
    folder: Path, items: Items, rounds: int, settings: IndexSettings, *, report: Callable[[str], None]
) -> tuple[State, State]:
    """Fill a collection in `folder`, change items again and again; return how it is then, and after a while's quiet."""
    base = _own_bytes(folder)
    collection = Collection.open(folder, dim=items.vectors.shape[1], space_id=SPACE, settings=settings)
    try:
        _write(collection, items.all())
        for number in range(1, rounds + 1):
            _write(collection, items.change())
            if number % _REPORTED_ROUNDS == 0:
                report(f"{number} rounds")
        wait_until_built(collection, settings)
        after = _state_of(collection, folder, items, base)
        _wait_until(lambda: _is_tidy(collection, settings))
        return after, _state_of(collection, folder, items, base)
    finally:
        collection.close()


def fresh(folder: Path, items: Items, settings: IndexSettings) -> State:
    """Fill a collection in `folder` with the items as they are, and return how it is then."""
    base = _own_bytes(folder)
    collection = Collection.open(folder, dim=items.vectors.shape[1], space_id=SPACE, settings=settings)
    try:
        _write(collection, items.all())
        wait_until_built(collection, settings)
        return _state_of(collection, folder, items, base)
    finally:
        collection.close()


def store_bytes(folder: Path) -> int:
    """Return the size of a closed collection's store."""
    return (folder / STORE_NAME).stat().st_size


def shortfalls(*, updated: State, quiet: State, fresh: State) -> list[str]:
    """Return a sentence for each bar that is missed."""
    found = [
        f"recall {state.recall} {when}, {fresh.recall} of a fresh build"
        for state, when in ((updated, "after the updates"), (quiet, "after the quiet"))
        if state.recall < fresh.recall - RECALL_LOSS_MAX
    ]
    for name, spare in (("index_bytes", 0), ("segment_bytes", 0), ("resident_bytes", CACHES_BYTES)):
        ours, theirs = getattr(quiet, name), getattr(fresh, name)
        if ours > GROWTH_MAX * theirs + spare:
            found.append(f"{name} {ours} after the quiet, {theirs} of a fresh build")
    return found


def _write(collection: Collection, batches: Iterator[list[Record]]) -> None:
    for batch in batches:
        collection.upsert(batch, patience_seconds=_PATIENCE_SECONDS)


def _state_of(collection: Collection, folder: Path, items: Items, base: int) -> State:
    """Measure, with no generation kept but of the present segments."""
    recall = recall_of(collection, items.texts)
    segments = folder / "segments"

    def forgets_what_was() -> bool:
        for _ in range(2):  # Generations are kept, so many: each needs something new to be published for.
            collection.upsert([Record(item_id(0), items.vectors[0])])
            collection.snapshot()
        return _bytes_below(segments) == sum(part.file_bytes for part in collection.stats().segments)

    _wait_until(forgets_what_was)  # More than once where a segment is built meanwhile.
    stats = collection.stats()
    return State(
        recall,
        stats.item_count,
        sum(part.row_count - part.live_count for part in stats.segments),
        len(stats.segments),
        stats.memory_bytes,
        _bytes_below(segments),
        _own_bytes(folder) - base,
    )


def _is_tidy(collection: Collection, settings: IndexSettings) -> bool:
    """Return whether the builder has nothing left to do in the quiet."""
    return all(
        part.row_count - part.live_count <= settings.dead_share_quiet_max * part.row_count
        for part in collection.stats().segments
    )


def _own_bytes(folder: Path) -> int:
    return resident(folder).total


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _WAIT_SECONDS_MAX
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError(f"what was waited for did not come within {_WAIT_SECONDS_MAX:.0f} s")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
