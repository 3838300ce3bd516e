"""The engines for segments beside one another: what each does to the event loop, memory, recall and speed.

    python -m bench.bench_engines --vectors 100000 --dim 512 --engines hnswlib faiss usearch

Every engine works in a process of its own on the same vectors (`bench/index/vectors.py`: pictures to store, texts to
search with, as a CLIP model makes them). Meanwhile an asyncio loop in the main thread does nothing but wake up every
millisecond: its longest sleep is the time for which a server would have answered nobody. `idle` is that figure with no
work at all, so what the machine itself does.

Ceilings: no graph can take less memory than its vectors and its links; `links_bytes` is what the file holds beside the
vectors. A search that scans all vectors is exact; `scan_ms` is what that takes with one thread.

Ends with one JSON line; for each engine

    build_per_s, extend_per_s      vectors inserted, from nothing and into a copied graph of nine tenths of them
    stall_ms                       longest sleep of the loop during each step; ingest, seal and open_sealed are
                                   those of a collection of `collection_rows`, the others of the bare engine
    seconds                        of each step
    resident_bytes, links_bytes    for each vector; the former by how much a new process grows by loading the graph
    memory_ratio                   resident bytes to those of vectors and links
    ef, recall                     the smallest ef that `tuning.py` finds for the target, and recall@10 with it of texts
                                   and of pictures that were not its samples
    recall_by_ef                   of the texts
    qps, p50_ms, p99_ms            at that ef, for 1 and 2 threads
    filtered                       for each share of allowed vectors: recall@10, p50_ms, of over-fetching
"""

import argparse
import asyncio
import ctypes
import functools
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench.index.heart import Heart
from bench.index.vectors import PICTURES_PER_CONCEPT, Parameters, Space
from clip_search_server.allocator import give_back_large_blocks
from clip_search_server.index import Collection, Record
from clip_search_server.index.engines import chosen_engine
from clip_search_server.index.segment import Segment
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.tuning import recall_at, tune
from clip_search_server.interpreter import prefer_latency

ENGINES = ("hnswlib", "faiss", "usearch")
TEXTS, PICTURES = 300, 300
LIMIT = 10
EFS = (32, 64, 128, 256, 512)
ALLOWED_SHARES = (0.5, 0.1)
SEARCH_SECONDS = 3.0
_BATCH_ROWS = 256

_Result = TypeVar("_Result")


def main() -> int:
    """Make the vectors, let every engine work on them in turn, print."""
    arguments = _arguments()
    if arguments.load_only:
        print(_growth_by_loading(arguments))
        return 0
    if arguments.worker:
        prefer_latency()
        give_back_large_blocks()
        print(json.dumps(asyncio.run(_Bench(arguments).run())))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        _write_vectors(Path(folder), arguments)
        results = {name: _run_worker(name, Path(folder), arguments) for name in arguments.engines}
    figures = {
        "bench": "engines",
        "vectors": arguments.vectors,
        "dim": arguments.dim,
        "build_threads": arguments.build_threads,
        "recall_target": arguments.recall_target,
        "engines": results,
    }
    print(json.dumps(figures))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="compare the engines for segments")
    parser.add_argument("--vectors", type=int, default=100_000, help="how many to store (default 100,000)")
    parser.add_argument("--dim", type=int, default=512, help="components of a vector (default 512)")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES, help="default all")
    parser.add_argument("--build-threads", type=int, default=IndexSettings().build_threads)
    parser.add_argument("--recall-target", type=float, default=IndexSettings().recall_target)
    parser.add_argument("--seconds", type=float, default=SEARCH_SECONDS, help="of searching for each figure")
    parser.add_argument("--folder", type=Path, help="where vectors and graphs are kept meanwhile")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--load-only", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _write_vectors(folder: Path, arguments: argparse.Namespace) -> None:
    concepts = max(1, arguments.vectors // PICTURES_PER_CONCEPT)
    space = Space(Parameters.load(), dim=arguments.dim, concepts=concepts, seed=1)
    np.save(folder / "stored.npy", space.pictures(arguments.vectors))
    np.save(folder / "pictures.npy", space.pictures(PICTURES))
    np.save(folder / "texts.npy", space.texts(2 * TEXTS))


def _run_worker(name: str, folder: Path, arguments: argparse.Namespace) -> Mapping[str, Any]:
    options = {
        "--worker": name,
        "--folder": folder,
        "--build-threads": arguments.build_threads,
        "--recall-target": arguments.recall_target,
        "--seconds": arguments.seconds,
    }
    words = [str(word) for option in options.items() for word in option]
    done = subprocess.run(
        [sys.executable, "-m", "bench.bench_engines", *words], check=True, stdout=subprocess.PIPE, text=True
    )
    figures: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {json.dumps(figures, indent=1)}")
    return figures


def _resident_growth(name: str, folder: Path) -> int:
    """Return by how much loading the graph makes a new process grow, in bytes."""
    words = [sys.executable, "-m", "bench.bench_engines", "--worker", name, "--folder", str(folder), "--load-only"]
    return int(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def _growth_by_loading(arguments: argparse.Namespace) -> int:
    engine = chosen_engine(IndexSettings(engine=arguments.worker), print)
    count, dim = np.load(arguments.folder / "stored.npy", mmap_mode="r").shape
    before = _resident_bytes()
    segment = engine.load(arguments.folder / "graph", node_count=count, dim=dim)
    growth = _resident_bytes() - before
    if segment.node_count != count:
        raise RuntimeError("another graph was loaded. This is a bug.")
    return growth


@dataclass(frozen=True, slots=True)
class _Speed:
    qps: float
    p50_ms: float
    p99_ms: float


class _Bench:
    """One engine's turn."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._seconds = arguments.seconds
        self._settings = IndexSettings(
            engine=arguments.worker, build_threads=arguments.build_threads, recall_target=arguments.recall_target
        )
        self._engine = chosen_engine(self._settings, print)
        self._folder = arguments.folder
        self._stored = np.load(self._folder / "stored.npy")
        self._pictures = np.load(self._folder / "pictures.npy")
        texts = np.load(self._folder / "texts.npy")
        self._known_texts, self._texts = texts[:TEXTS], texts[TEXTS:]
        self._pool = ThreadPoolExecutor(2)
        self._stalls_ms: dict[str, float] = {}
        self._times_s: dict[str, float] = {}

    async def run(self) -> dict[str, Any]:
        """Return the figures."""
        count = len(self._stored)
        held = count * 9 // 10
        path, part_path = self._folder / "graph", self._folder / "part"
        await self._step("idle", lambda: time.sleep(1.0))
        part = await self._step("build", lambda: self._engine.build(self._stored[:held], _never))
        await self._step("save", functools.partial(part.save, part_path))
        del part
        whole = await self._step("extend", lambda: self._engine.extend(part_path, held, self._stored, _never))
        await asyncio.to_thread(whole.save, path)
        del whole
        part_path.unlink()
        resident = _resident_growth(self._engine.name, self._folder)
        loaded = await self._step("load", lambda: self._engine.load(path, node_count=count, dim=self._stored.shape[1]))
        links = path.stat().st_size - self._stored.nbytes
        return {
            "build_per_s": round(held / self._times_s["build"]),
            "extend_per_s": round((count - held) / self._times_s["extend"]),
            "resident_bytes": round(resident / count),
            "links_bytes": round(links / count),
            "memory_ratio": round(resident / (links + self._stored.nbytes), 3),
            "scan_ms": round(self._scan_ms(), 3),
            **await self._searches(loaded),
            "collection_rows": await self._collection(),
            "stall_ms": self._stalls_ms,
            "seconds": {name: round(seconds, 3) for name, seconds in self._times_s.items()},
        }

    async def _step(self, name: str, work: Callable[[], _Result]) -> _Result:
        """Do work in a thread while the loop's heart beats."""
        heart = Heart()
        started = time.perf_counter()
        result = await asyncio.get_running_loop().run_in_executor(self._pool, work)
        self._times_s[name] = time.perf_counter() - started
        self._stalls_ms[name] = heart.stop().longest_ms
        return result

    async def _collection(self) -> int:
        """Ingest as many rows as one seal takes into a real collection, let it seal them, and open it again."""
        rows = min(len(self._stored), self._settings.tail_rows_max)
        settings = replace(self._settings, tail_rows_max=rows)
        open_it = functools.partial(
            Collection.open, self._folder / "collection", dim=self._stored.shape[1], space_id="bench", settings=settings
        )
        collection = await self._step("open_empty", open_it)
        records = [Record(f"item {row}", self._stored[row]) for row in range(rows)]

        def ingest() -> None:
            for start in range(0, rows, _BATCH_ROWS):
                collection.upsert(records[start : start + _BATCH_ROWS])

        def wait_for_seal() -> None:
            while collection.stats().tail_row_count:
                time.sleep(0.05)

        await self._step("ingest", ingest)
        await self._step("seal", wait_for_seal)
        await asyncio.to_thread(collection.snapshot)
        await asyncio.to_thread(collection.close)
        await asyncio.to_thread((await self._step("open_sealed", open_it)).close)
        shutil.rmtree(self._folder / "collection")
        return rows

    async def _searches(self, segment: Segment) -> dict[str, Any]:
        tuning = await self._step("tune", lambda: tune(segment, self._stored, self._known_texts, self._settings))
        ef = tuning.ef
        recalls = {"texts": self._texts, "pictures": self._pictures}
        speeds = {threads: await self._speed(segment, ef, threads) for threads in (1, 2)}
        return {
            "ef": ef,
            "recall": {name: round(recall_at(segment, self._stored, some, ef), 4) for name, some in recalls.items()},
            "recall_by_ef": {at: round(recall_at(segment, self._stored, self._texts, at), 4) for at in EFS},
            "qps": {threads: round(speed.qps) for threads, speed in speeds.items()},
            "p50_ms": {threads: round(speed.p50_ms, 3) for threads, speed in speeds.items()},
            "p99_ms": {threads: round(speed.p99_ms, 3) for threads, speed in speeds.items()},
            "filtered": {share: self._filtered(segment, ef, share) for share in ALLOWED_SHARES},
        }

    async def _speed(self, segment: Segment, ef: int, threads: int) -> _Speed:
        """Search with this many threads, while the heart beats; return what all of them did together."""
        asked = math.ceil(LIMIT * 1.2) + 8  # As sealed.py asks.

        def search_on(first: int) -> list[float]:
            times_s = []
            until = time.perf_counter() + self._seconds
            at = first
            while (started := time.perf_counter()) < until:
                segment.nearest(self._texts[at % TEXTS], asked, ef)
                times_s.append(time.perf_counter() - started)
                at += 1
            return times_s

        heart = Heart()
        loop = asyncio.get_running_loop()
        lists = await asyncio.gather(*(loop.run_in_executor(self._pool, search_on, at * 150) for at in range(threads)))
        self._stalls_ms[f"search_{threads}"] = heart.stop().longest_ms
        times_s = np.concatenate(lists)
        p50, p99 = np.percentile(times_s, [50, 99]) * 1e3
        return _Speed(len(times_s) / self._seconds, float(p50), float(p99))

    def _filtered(self, segment: Segment, ef: int, share: float) -> dict[str, float]:
        """Search among a random share of the vectors by asking for more and dropping what is not allowed."""
        allowed = np.random.default_rng(3).random(len(self._stored)) < share
        asked = math.ceil(LIMIT * 1.2 / share) + 8
        found = 0
        times_s = []
        for text in self._texts:
            truth = np.argsort(np.where(allowed, -(self._stored @ text), np.inf))[:LIMIT]
            started = time.perf_counter()
            nodes = segment.nearest(text, asked, max(ef, 2 * asked))
            hits = [] if nodes is None else nodes[allowed[nodes]][:LIMIT].tolist()
            times_s.append(time.perf_counter() - started)
            found += len(set(hits) & set(truth.tolist()))
        recall = found / (LIMIT * len(self._texts))
        return {"recall": round(recall, 4), "p50_ms": round(float(np.median(times_s)) * 1e3, 3)}

    def _scan_ms(self) -> float:
        times_s = []
        for text in self._texts[:20]:
            started = time.perf_counter()
            self._stored @ text
            times_s.append(time.perf_counter() - started)
        return float(np.median(times_s)) * 1e3


def _never() -> bool:
    return False


def _resident_bytes() -> int:
    """Return the process's resident memory, once what was freed has been given back."""
    ctypes.CDLL(None).malloc_trim(0)
    fields: Sequence[str] = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in fields if line.startswith("Rss:"))


if __name__ == "__main__":
    sys.exit(main())
