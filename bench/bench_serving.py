"""What a real `clip-search serve` makes of its towers: throughput, overhead, latency, overload, start, soak.

    python -m bench.bench_serving [--model vit-b-32|demo|both] [--only PART …] [--seconds 10] [--soak MINUTES]

The server is a process of its own, and so are its clients, whose processor time is measured and taken off: a rate is
answers divided by the time that clients left of the processor. ViT-B/32 has random weights of true shape in FP32; the
demo model is reported beside it. The ceiling is the bare tower with its best batch size up to 16, run right before and
right after the server, round by round, because machines that are shared are not as fast from one second to the next.

    throughput  16 clients that wait for each answer; pictures are JPEGs of 224 pixels
    overhead    one request at a time, in turn with the bare tower on the same input
    mixed       searches by one person, alone and while one stream of pictures comes as fast as it can
    overload    four times as many requests as could be answered; each has a deadline of one second
    start       from the start of the process to SERVING, with the tuning cached
    soak        searches, ingest and pictures for so many minutes (only with --soak)

Ends with one JSON line. The bars are in `bench/serving/bars.py`; exit 1 when one is missed.
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import grpc

from bench.serving.bare import BareTowers, BestBatch
from bench.serving.bars import judged
from bench.serving.bundles import bundle_of
from bench.serving.inputs import pictures, texts
from bench.serving.load import Load, percentile, ready_load, running_load, throughput
from bench.serving.memory import MemoryWatch
from clip_search.v1 import content_pb2, embedding_pb2, embedding_pb2_grpc
from clip_search_server.bundle import Bundle
from demo.server_process import ServerProcess

CLIENTS = {"processes": 4, "connections": 4}
PERSON_RATE = 5.0
OVERLOAD = 4.0
OVERLOAD_DEADLINE_S = 1.0
OVERHEAD_REQUESTS = 200
RECOVERY_S_MAX, FAST_ENOUGH = 20.0, 3
SOAK_SECONDS_MIN = 120
PARTS = ("throughput", "overhead", "mixed", "overload", "start", "soak")

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Bench:
    """One model's measurements.

    Args:
        bundle: what is served.
        folder: for data and logs; emptied by whoever made it.
        seconds: how long each load lasts.
        rounds: how often throughput is measured.
        soak_minutes: how long the mixed load lasts.
    """

    bundle: Path
    folder: Path
    seconds: float
    rounds: int
    soak_minutes: float

    @contextmanager
    def server(self, name: str, *options: str) -> Iterator[ServerProcess]:
        """A server with an empty data folder; the tuning comes from the cache once there is one."""
        log = self.folder / f"{name}.log"
        with ServerProcess.start(self.bundle, self.folder / name, log=log, options=options) as server:
            yield server

    def throughput(self) -> Figures:
        """Served inputs a second over those of the bare tower, right before and right after."""
        figures: Figures = {}
        bare = BareTowers(Bundle.open(self.bundle))
        with self.server("throughput") as server:
            for kind in ("image", "text"):
                best = bare.best(kind, self.seconds)
                load = self._load(kind, seconds=self.seconds / 2, **CLIENTS)
                pairs = [self._paired(server.address, bare, best, load, seed) for seed in range(2 * self.rounds)]
                figures |= {
                    f"{kind}_bare_batch": best.size,
                    f"{kind}_bare_per_s": round(median(alone for _served, alone in pairs), 1),
                    f"{kind}_served_per_s": round(median(served for served, _alone in pairs), 1),
                    f"{kind}_served_ratio": round(median(served / alone for served, alone in pairs), 3),
                }
        return figures

    def _paired(self, address: str, bare: BareTowers, best: BestBatch, load: Load, seed: int) -> tuple[float, float]:
        """Return inputs a second of the server and of the bare tower, whose half before and half after it ran."""
        with ready_load(address, load, seed=seed) as (clients,):
            before = bare.rate(load.kind, best.size, self.seconds / 4)
            clients.go()
            served = throughput(clients.report(), _cores())
            after = bare.rate(load.kind, best.size, self.seconds / 4)
        return served, (before + after) / 2

    def overhead(self) -> Figures:
        """Milliseconds that one request takes longer than the bare tower, beside what the client itself computes."""
        figures: Figures = {}
        bare = BareTowers(Bundle.open(self.bundle))
        words, files = texts(9), itertools.cycle(pictures(9))
        with self.server("overhead") as server, grpc.insecure_channel(server.address) as channel:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            for kind in ("text", "image"):
                served, alone, client = [], [], []
                for _ in range(OVERHEAD_REQUESTS):
                    content = {"text": next(words)} if kind == "text" else {"image": next(files)}
                    request = embedding_pb2.EmbedRequest(inputs=[content_pb2.Content(**content)])
                    alone.append(bare.single_ms(kind))
                    started, computed = time.perf_counter(), time.process_time()
                    stub.Embed(request, timeout=30)
                    served.append((time.perf_counter() - started) * 1e3)
                    client.append((time.process_time() - computed) * 1e3)
                longer = [whole - own - tower for whole, own, tower in zip(served, client, alone, strict=True)]
                figures |= {
                    f"{kind}_bare_p50_ms": percentile(alone, 50),
                    f"{kind}_single_p50_ms": percentile(served, 50),
                    f"{kind}_client_p50_ms": percentile(client, 50),
                    f"{kind}_overhead_p50_ms": percentile(longer, 50),
                }
        return figures

    def mixed(self) -> Figures:
        """A person's searches and a stream of pictures, each alone and both together."""
        person = self._load("search", seconds=3 * self.seconds, connections=1, rate=PERSON_RATE, one_by_one=True)
        stream = self._load("ingest", seconds=3 * self.seconds, connections=1)
        with self.server("mixed") as server:
            with running_load(server.address, person, seed=1) as (clients,):
                idle = clients.report()
            with running_load(server.address, stream, seed=2) as (clients,):
                lone = throughput(clients.report(), _cores())
            with running_load(server.address, person, stream, seed=3) as (searching, ingesting):
                busy, ingested = searching.report(), throughput(ingesting.report(), _cores())
        return {
            "search_p50_ms": percentile(idle.answered_ms, 50),
            "search_p99_ms": percentile(idle.answered_ms, 99),
            "search_p50_ms_under_ingest": percentile(busy.answered_ms, 50),
            "search_p99_ms_under_ingest": percentile(busy.answered_ms, 99),
            "search_p99_ratio_under_ingest": round(
                percentile(busy.answered_ms, 99) / percentile(idle.answered_ms, 99), 2
            ),
            "ingest_per_s": round(lone, 1),
            "ingest_per_s_under_search": round(ingested, 1),
            "ingest_ratio_under_search": round(ingested / lone, 3),
        }

    def overload(self) -> Figures:
        """Four times the capacity: what is still answered, how refusals come, what memory does, and how it ends."""
        figures: Figures = {}
        for kind in ("text", "image"):
            with self.server(f"overload-{kind}") as server:
                usual_ms = _usual_ms(server.address, kind)
                with MemoryWatch(server.pid) as memory:
                    with running_load(server.address, self._load(kind, **CLIENTS), seed=1) as (clients,):
                        report = clients.report()
                    capacity, peak_mb = throughput(report, _cores()), memory.most_mb
                offered = OVERLOAD * len(report.answered_ms) / report.seconds
                load = self._load(kind, rate=offered, deadline=OVERLOAD_DEADLINE_S, **CLIENTS)
                with MemoryWatch(server.pid) as memory:
                    with running_load(server.address, load, seed=2) as (clients,):
                        report = clients.report()
                    overload_mb = memory.most_mb
                figures |= {
                    f"{kind}_capacity_per_s": round(capacity, 1),
                    f"{kind}_offered_per_s": round(offered, 1),
                    f"{kind}_overload_goodput_ratio": round(throughput(report, _cores()) / capacity, 3),
                    f"{kind}_overload_p99_ms": percentile(report.answered_ms, 99),
                    f"{kind}_overload_refused": len(report.refused_ms),
                    f"{kind}_overload_expired": report.other.get("DEADLINE_EXCEEDED", 0),
                    f"{kind}_overload_errors": sum(report.other.values()) - report.other.get("DEADLINE_EXCEEDED", 0),
                    f"{kind}_overload_refusal_p99_ms": percentile(report.refused_ms, 99),
                    f"{kind}_overload_memory_ratio": round(overload_mb / peak_mb, 3),
                    f"{kind}_overload_recovery_s": round(_recovery_s(server.address, kind, usual_ms), 2),
                }
        return figures

    def start(self) -> Figures:
        """Seconds to SERVING; the first start may have to measure and does not count."""
        with self.server("start-first"):
            pass
        seconds = []
        for number in range(self.rounds):
            started = time.monotonic()
            with self.server(f"start-{number}"):
                seconds.append(time.monotonic() - started)
        return {"start_s": round(median(seconds), 2)}

    def soak(self) -> Figures:
        """Memory's growth after the first minute of a mixed load."""
        seconds = 60.0 * self.soak_minutes
        if seconds < SOAK_SECONDS_MIN:
            return {}
        loads = [
            Load("search", seconds, connections=4, rate=4 * PERSON_RATE, one_by_one=True),
            Load("ingest", seconds, connections=2),
            Load("image", seconds, connections=1, rate=1, one_by_one=True),
        ]
        # Few rows in the exact tail, so that what is stored has its final size within the first minute.
        with self.server("soak", "--segment-rows", "256") as server, MemoryWatch(server.pid) as memory:
            with running_load(server.address, *loads) as clients:
                reports = [each.report() for each in clients]
            before, after = memory.mean_mb(60, 75), memory.mean_mb(seconds - 15, seconds)
        return {
            "soak_minutes": self.soak_minutes,
            "soak_mb": round(after, 1),
            "soak_memory_growth": round(after / before - 1, 4),
            "soak_errors": sum(sum(report.other.values()) + len(report.refused_ms) for report in reports),
            "soak_answers": sum(len(report.answered_ms) for report in reports),
        }

    def _load(self, kind: str, *, seconds: float = 0.0, **options: float) -> Load:
        return Load(kind, seconds or self.seconds, **options)  # type: ignore[arg-type]


def _usual_ms(address: str, kind: str, requests: int = 20) -> float:
    """Return the median milliseconds of single requests."""
    return median(itertools.islice(_single_ms(address, kind), requests))


def _recovery_s(address: str, kind: str, usual_ms: float) -> float:
    """Return seconds until single requests take no more than half as long again as usual, three in a row."""
    started = time.monotonic()
    fast = 0
    for milliseconds in _single_ms(address, kind):
        fast = fast + 1 if milliseconds <= 1.5 * usual_ms else 0
        if fast == FAST_ENOUGH or time.monotonic() - started > RECOVERY_S_MAX:
            break
    return time.monotonic() - started


def _single_ms(address: str, kind: str) -> Iterator[float]:
    """Yield how long one request after the other takes, refusals included."""
    words, files = texts(77), itertools.cycle(pictures(77))
    with grpc.insecure_channel(address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        while True:
            content = {"text": next(words)} if kind == "text" else {"image": next(files)}
            started = time.perf_counter()
            try:
                stub.Embed(embedding_pb2.EmbedRequest(inputs=[content_pb2.Content(**content)]), timeout=30)
            except grpc.RpcError:
                time.sleep(0.05)
                yield float("inf")
            else:
                yield (time.perf_counter() - started) * 1e3


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def main() -> int:
    """Measure, print, judge; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["vit-b-32", "demo", "both"], default="both")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each load lasts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    models = ["vit-b-32", "demo"] if options.model == "both" else [options.model]
    figures = {model: _measure(model, options) for model in models}
    bars = judged(figures.get("vit-b-32", {}))
    print(json.dumps({"bench": "serving", "cores": _cores(), "figures": figures, "bars": bars}))
    return 0 if all(bars.values()) else 1


def _measure(model: str, options: argparse.Namespace) -> Figures:
    figures: Figures = {}
    folder = Path(tempfile.mkdtemp(prefix="bench-serving-"))
    try:
        bench = Bench(bundle_of(model), folder, options.seconds, options.rounds, options.soak)
        for part in options.only:
            run: Callable[[], Figures] = getattr(bench, part)
            found = run()
            print(f"{model} {part}: {found}", file=sys.stderr, flush=True)
            figures |= found
    finally:
        shutil.rmtree(folder)
    return figures


if __name__ == "__main__":
    sys.exit(main())
