"""A collection as the server runs it: recall, speed, what ingest does to searches, memory, snapshots and restarts.

    python -m bench.bench_index --rows 100000 --dim 512 [--data DIR] [--engine faiss] [--seconds 10] [--rounds 1]

The items are pictures and the queries texts, both made as a CLIP model makes them (`vectors.py`, fitted to the demo
model; `python -m bench.index.fit_vectors --check` compares the recall of both). With `--data` the collection is
built once and kept, and whatever is measured happens to a copy of it. Building, opening and measuring have a process
each.

Searches go the server's way: an event loop, `AsyncCollection` and its threads, `Collection.find`, which reads each hit
from the store. `idle` is with 1 and 16 clients that wait for their answers. A round asks in an open loop instead, at
30 % of what 16 clients got; latencies count from the moment a request was due. It does so three times: with nothing
else going on; while snapshots are taken; and while four streams write new items as fast as they are taken in, segments
are sealed and merged, and every five seconds a snapshot is taken.

Ceilings and bars stand beside the figures:

    recall                 against exact searches of the same collection; for texts it was not tuned with
    idle                   the ceiling is a search by one thread that reads nothing from the store (`memory_alone_ms`)
    build_per_s            until nothing is left to build; the ceiling is the bare engine inserting each vector once
    memory                 resident bytes beyond the process's base, anonymous ones and those of mapped files, to those
                           of vectors and links, which are the graphs' files
    restart_s              of a new process, from its first instruction; the ceiling is digesting the files
    stalls                 how late a beat of the event loop came at most, and at the 99th percentile

Restarts and memory do not depend on how good the graphs are: at a million items `--ef-construction 16` builds them in a
tenth of the time, but says nothing then about recall.

Ends with one JSON line. `bars` lists what must hold and whether it does.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

from bench.index.data import SPACE
from bench.index.fill import fill
from bench.index.measure import SHARES, Measurement
from clip_search_server.allocator import give_back_large_blocks
from clip_search_server.index import Collection, EngineChoice, IndexSettings
from clip_search_server.interpreter import prefer_latency

RECALL_LEAST = 0.98
P99_RATIO_MAX = 2.0
MEMORY_RATIO_MAX = 1.25
RESTART_SECONDS_MAX = 10.0
FILTERED_RATIO_MAX = 5.0

_RESTARTS = 3


def main() -> int:
    """Build what is missing, measure a copy, print."""
    arguments = _arguments()
    if arguments.worker is not None:
        prefer_latency()
        give_back_large_blocks()
        print(json.dumps(_work(arguments)))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.data) as temporary:
        data = arguments.data or Path(temporary)
        built, copied = data / f"{arguments.rows}x{arguments.dim}", Path(temporary) / "copy"
        filled = _run("fill", built, arguments)
        _copy(built, copied)
        _read_all(copied)
        restarts = [_run("restart", copied, arguments)["restart_s"] for _ in range(_RESTARTS)]
        measured = _run("measure", copied, arguments)
    figures = {
        "bench": "index",
        "rows": arguments.rows,
        "dim": arguments.dim,
        "processors": os.cpu_count(),
        "build": filled,
        "restart_s": statistics.median(restarts),
        **measured,
    }
    bars = judged(figures)
    print(json.dumps(figures | {"bars": bars, "passed": all(bar["holds"] for bar in bars.values())}))
    return 0


def _arguments() -> argparse.Namespace:
    defaults = IndexSettings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="items (default 100,000)")
    parser.add_argument("--dim", type=int, default=512, help="components of a vector (default 512)")
    parser.add_argument("--engine", choices=get_args(EngineChoice), default=defaults.engine)
    parser.add_argument("--seconds", type=float, default=10.0, help="of searching for each figure (default 10)")
    parser.add_argument("--rounds", type=int, default=1, help="of searching alone and beside ingest (default 1)")
    parser.add_argument("--data", type=Path, help="keep the collection in this folder, and use what is there")
    parser.add_argument("--tail-rows", type=int, default=defaults.tail_rows_max)
    parser.add_argument("--ef-construction", type=int, default=defaults.ef_construction)
    parser.add_argument("--build-threads", type=int, default=defaults.build_threads)
    parser.add_argument("--build-niceness", type=int, default=defaults.build_niceness)
    parser.add_argument("--worker", choices=["fill", "restart", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(worker: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one worker in a process of its own, show what it says, and return its figures."""
    kept = {
        name: value for name, value in vars(arguments).items() if name not in {"worker", "folder", "started", "data"}
    }
    options = {**kept, "worker": worker, "folder": folder, "started": time.time()}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with subprocess.Popen(
        [sys.executable, "-m", "bench.bench_index", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None, "a pipe was asked for. This is a bug."
        line = ""
        for line in process.stdout:
            print(f"{worker}: {line}", end="", flush=True)
    if process.returncode:
        raise SystemExit(f"the worker that was to {worker} failed")
    figures: dict[str, Any] = json.loads(line)
    return figures


def _work(arguments: argparse.Namespace) -> dict[str, Any]:
    settings = IndexSettings(
        engine=arguments.engine,
        tail_rows_max=arguments.tail_rows,
        ef_construction=arguments.ef_construction,
        build_threads=arguments.build_threads,
        build_niceness=arguments.build_niceness,
    )
    folder, rows, dim = arguments.folder, arguments.rows, arguments.dim
    match arguments.worker:
        case "fill":
            return fill(folder, rows, dim, settings)
        case "restart":
            collection = Collection.open(folder, dim=dim, space_id=SPACE, settings=settings)
            seconds = time.time() - arguments.started
            collection.close()
            return {"restart_s": round(seconds, 3)}
        case _:
            return asyncio.run(
                Measurement(folder, rows, dim, settings, seconds=arguments.seconds).run(arguments.rounds)
            )


def _copy(collection: Path, copied: Path) -> None:
    """Copy a closed collection; its segments are never written again, so that links will do."""
    shutil.copytree(collection / "segments", copied / "segments", copy_function=os.link)
    shutil.copytree(collection, copied, ignore=shutil.ignore_patterns("segments"), dirs_exist_ok=True)


def _read_all(folder: Path) -> None:
    """Have the kernel cache all files."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as stream:
                while stream.read(1 << 24):
                    pass


def judged(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each bar with the figure that it is for."""

    def at_most(value: float, most: float) -> dict[str, Any]:
        return {"value": value, "at_most": most, "holds": value <= most}

    def at_least(value: float, least: float) -> dict[str, Any]:
        return {"value": value, "at_least": least, "holds": value >= least}

    def ratio(name: str) -> float:
        return float(statistics.median(each[name] for each in figures["rounds"]))

    bars = {
        "recall": at_least(figures["recall"], RECALL_LEAST),
        "p99_beside_ingest_to_alone": at_most(ratio("p99_ratio_ingest"), P99_RATIO_MAX),
        "p99_beside_snapshots_to_alone": at_most(ratio("p99_ratio_snapshots"), P99_RATIO_MAX),
        "restart_s": at_most(figures["restart_s"], RESTART_SECONDS_MAX),
    }
    for moment in ("opened", "searched", "after_ingest"):
        bars[f"memory_{moment}"] = at_most(figures["memory"][moment]["ratio"], MEMORY_RATIO_MAX)
    for share in SHARES:
        filtered = figures["filtered"][str(share)]
        bars[f"recall_filtered_{share}"] = at_least(filtered["recall"], RECALL_LEAST)
        bars[f"p50_filtered_{share}_to_unfiltered"] = at_most(filtered["times_unfiltered"], FILTERED_RATIO_MAX)
    return bars


if __name__ == "__main__":
    sys.exit(main())
