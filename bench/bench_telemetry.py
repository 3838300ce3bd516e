"""What telemetry costs a real server: scraped each second beside not at all.

    python -m bench.bench_telemetry [--model demo|vit-b-32] [--seconds 5] [--rounds 5]

Two servers run side by side and take turns at the same load, one with `--metrics-listen` and asked for its metrics each
second, one without; he who waits does nothing. Within a round the order is there and back (without, with, with,
without), so that a machine that becomes slower or faster favours neither; a round's ratio is that of the sums. Before,
a third server measures batch sizes until it is done, so that both form the same batches and neither measures in its
idle time while the other is loaded. The demo model is the harder case: the less its towers compute, the more weighs
what stands around them.

Figures of calls, batches and commits are kept in either server, as they are in every one. What keeping them costs is
measured by itself: `note_us` is microseconds for all that one embedded text adds to.

Ends with one JSON line; exit 1 where the median ratio is below `RATIO_MIN`.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import timeit
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.serving.bundles import bundle_of
from bench.serving.load import Load, ready_load, throughput
from clip_search_server.encoder.encoder import REFINING_ROUNDS
from clip_search_server.encoder.figures import BatchFigures
from clip_search_server.telemetry.calls import CallFigures
from demo.server_process import ServerProcess, metrics_url

RATIO_MIN = 0.97
KINDS = ("text", "image")
_ORDER = ("without", "with", "with", "without")
_METHOD = "/clip_search.v1.EmbeddingService/Embed"
_NOTES = 20_000
_SETTLE_SECONDS_MAX = 600


@dataclass(slots=True)
class Scraper:
    """Asks for metrics each second until it is told to stop.

    Attributes:
        milliseconds: how long each answer took.
        bytes_max: the longest answer.
    """

    url: str
    milliseconds: list[float] = field(default_factory=list)
    bytes_max: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Serve as a thread's target."""
        while not self._stop.wait(1.0):
            started = time.perf_counter()
            with urllib.request.urlopen(self.url, timeout=10) as response:  # noqa: S310 - our own server's
                self.bytes_max = max(self.bytes_max, len(response.read()))
            self.milliseconds.append((time.perf_counter() - started) * 1e3)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask as long as the block lasts."""
        self._stop.clear()
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


def ratios(rates: Sequence[tuple[str, float]]) -> list[float]:
    """Return for each round what was done with metrics over what was done without.

    Args:
        rates: name and rate of each turn, rounds of `_ORDER` one after the other.
    """
    found = []
    for start in range(0, len(rates), len(_ORDER)):
        turns = rates[start : start + len(_ORDER)]
        sums = {name: sum(rate for other, rate in turns if other == name) for name in _ORDER}
        found.append(sums["with"] / sums["without"])
    return found


def note_us() -> float:
    """Return microseconds to note one call that embeds one text in a batch of its own."""
    calls, batch = CallFigures([_METHOD]), BatchFigures()

    def note() -> None:
        batch.wait_seconds.observe(0.002)
        batch.sizes.observe(1)
        batch.run_seconds.observe(0.004)
        batch.units.add(9)
        batch.padding_units.add(0)
        calls.note(_METHOD, "OK", 0.006)

    return min(timeit.repeat(note, number=_NOTES, repeat=5)) / _NOTES * 1e6


def settle(bundle: Path, folder: Path) -> None:
    """Return once a server has refined its tuning for the last time; `folder` is the caches' (XDG_CACHE_HOME).

    Raises:
        RuntimeError: that took too long.
    """
    with ServerProcess.start(bundle, folder / "data", log=folder / "log", environment={"XDG_CACHE_HOME": str(folder)}):
        for _ in range(_SETTLE_SECONDS_MAX):
            files = list((folder / "clip-search" / "tuning").glob("*.json"))
            if any(json.loads(file.read_bytes())["rounds"] > REFINING_ROUNDS for file in files):
                return
            time.sleep(1.0)
    raise RuntimeError(f"a server still measures batch sizes after {_SETTLE_SECONDS_MAX} s")


def measured(bundle: Path, folder: Path, seconds: float, rounds: int, *, cache: Path | None = None) -> dict[str, float]:
    """Return rates and ratios of both kinds of inputs, and what scraping was like.

    Args:
        bundle: what is served.
        folder: for data and logs.
        seconds: how long each turn lasts.
        rounds: of four turns for each kind of inputs.
        cache: the folder that was given to `settle`; by default the usual one.
    """
    figures: dict[str, float] = {"note_us": round(note_us(), 2)}
    with ExitStack() as stack:
        options = {"without": [], "with": ["--metrics-listen", "127.0.0.1:0"]}
        servers = {
            name: stack.enter_context(
                ServerProcess.start(
                    bundle,
                    folder / name,
                    log=folder / f"{name}.log",
                    options=given,
                    environment=None if cache is None else {"XDG_CACHE_HOME": str(cache)},
                )
            )
            for name, given in options.items()
        }
        scraper = Scraper(metrics_url(folder / "with.log"))
        for kind in KINDS:
            load = Load(kind, seconds, processes=4, connections=4)
            rates = [
                (name, _rate(servers[name].address, load, seed, scraper if name == "with" else None))
                for seed, name in enumerate(_ORDER * rounds)
            ]
            found = ratios(rates)
            figures |= {
                f"{kind}_without_per_s": round(median(rate for name, rate in rates if name == "without"), 1),
                f"{kind}_with_per_s": round(median(rate for name, rate in rates if name == "with"), 1),
                f"{kind}_ratio": round(median(found), 4),
                f"{kind}_ratio_min": round(min(found), 4),
                f"{kind}_ratio_max": round(max(found), 4),
            }
            print(f"{kind}: {figures}", file=sys.stderr, flush=True)
    return figures | {
        "scrapes": len(scraper.milliseconds),
        "scrape_p50_ms": round(median(scraper.milliseconds), 2) if scraper.milliseconds else 0.0,
        "scrape_bytes": scraper.bytes_max,
    }


def _rate(address: str, load: Load, seed: int, scraper: Scraper | None) -> float:
    with ready_load(address, load, seed=seed + 1) as (clients,), ExitStack() as stack:
        if scraper is not None:
            stack.enter_context(scraper.running())
        clients.go()
        return throughput(clients.report(), len(os.sched_getaffinity(0)))


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["demo", "vit-b-32"], default="demo")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each turn lasts")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    folder = Path(tempfile.mkdtemp(prefix="bench-telemetry-"))
    try:
        bundle, cache = bundle_of(options.model), folder / "cache"
        settle(bundle, cache)
        figures = measured(bundle, folder, options.seconds, options.rounds, cache=cache)
    finally:
        shutil.rmtree(folder)
    bars = {f"{kind}_ratio": figures[f"{kind}_ratio"] >= RATIO_MIN for kind in KINDS}
    print(json.dumps({"bench": "telemetry", "model": options.model, "figures": figures, "bars": bars}))
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
