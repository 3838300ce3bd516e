"""What telemetry costs a real server: scraped each second, and traced, beside neither.

    python -m bench.bench_telemetry [--model demo|vit-b-32] [--seconds 5] [--rounds 5]

Servers run side by side and take turns at the same load; those that wait do nothing:

    without      neither metrics nor traces
    with         `--metrics-listen`, asked for its metrics each second
    traced       that, and `--trace-endpoint` with one call in a hundred traced
    traced_all   that, and every call traced

Within a round the order is there and back, so that a machine that becomes slower or faster favours none; a round's
ratios are those of the sums. Before, one more server measures batch sizes until it is done, so that all form the same
batches and none measures in its idle time while another is loaded. The demo model is the harder case: the less its
towers compute, the more weighs what stands around them. Traces go to a collector in this process that throws them
away: the processor time that this takes is taken from the server too, so elsewhere the ratios are no lower.

Figures of calls, batches and commits are kept in either server, as they are in every one. What keeping them costs is
measured by itself: `note_us` is microseconds for all that one embedded text adds to.

Ends with one JSON line; exit 1 where the median ratio of `with` or of `traced` is below `RATIO_MIN`. That of
`traced_all` has no bar: who wants to see every call pays for it.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
_METRICS = ("--metrics-listen", "127.0.0.1:0")
#: Options of each server; `COLLECTOR` stands for where the traces go.
_COLLECTOR = "COLLECTOR"
_OPTIONS: Mapping[str, Sequence[str]] = {
    "without": (),
    "with": _METRICS,
    "traced": (*_METRICS, "--trace-endpoint", _COLLECTOR, "--trace-ratio", "0.01"),
    "traced_all": (*_METRICS, "--trace-endpoint", _COLLECTOR, "--trace-ratio", "1"),
}
#: Those whose ratio has a bar.
BARRED = ("with", "traced")
ORDER = (*_OPTIONS, *reversed(list(_OPTIONS)))
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


@contextmanager
def collector() -> Iterator[str]:
    """Run a collector that throws away what it is sent; give its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """Read and forget."""
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def ratios(rates: Sequence[tuple[str, float]], name: str) -> list[float]:
    """Return for each round what a server did over what the one without metrics and traces did.

    Args:
        rates: name and rate of each turn, rounds of `ORDER` one after the other.
        name: the server's.
    """
    found = []
    for start in range(0, len(rates), len(ORDER)):
        turns = rates[start : start + len(ORDER)]
        sums = {each: sum(rate for other, rate in turns if other == each) for each in ("without", name)}
        found.append(sums[name] / sums["without"])
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


def measured(
    bundle: Path, folder: Path, seconds: float, rounds: int, *, cache: Path | None = None, kinds: Sequence[str] = KINDS
) -> dict[str, float]:
    """Return rates and ratios of each kind of inputs, and what scraping was like.

    Args:
        bundle: what is served.
        folder: for data and logs.
        seconds: how long each turn lasts.
        rounds: for each kind of inputs, each of two turns a server.
        cache: the folder that was given to `settle`; by default the usual one.
        kinds: of inputs.
    """
    figures: dict[str, float] = {"note_us": round(note_us(), 2)}
    with ExitStack() as stack:
        traces_url = stack.enter_context(collector())
        servers = {
            name: stack.enter_context(
                ServerProcess.start(
                    bundle,
                    folder / name,
                    log=folder / f"{name}.log",
                    options=[traces_url if option == _COLLECTOR else option for option in given],
                    environment=None if cache is None else {"XDG_CACHE_HOME": str(cache)},
                )
            )
            for name, given in _OPTIONS.items()
        }
        scrapers = {name: Scraper(metrics_url(folder / f"{name}.log")) for name in _OPTIONS if name != "without"}
        for kind in kinds:
            load = Load(kind, seconds, processes=4, connections=4)
            rates = [
                (name, _rate(servers[name].address, load, seed, scrapers.get(name)))
                for seed, name in enumerate(ORDER * rounds)
            ]
            figures |= _summed_up(kind, rates)
            print(f"{kind}: {figures}", file=sys.stderr, flush=True)
    milliseconds = [each for scraper in scrapers.values() for each in scraper.milliseconds]
    return figures | {
        "scrapes": len(milliseconds),
        "scrape_p50_ms": round(median(milliseconds), 2) if milliseconds else 0.0,
        "scrape_bytes": max(scraper.bytes_max for scraper in scrapers.values()),
    }


def _summed_up(kind: str, rates: Sequence[tuple[str, float]]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name in _OPTIONS:
        figures[f"{kind}_{name}_per_s"] = round(median(rate for other, rate in rates if other == name), 1)
        if name != "without":
            found = ratios(rates, name)
            figures |= {
                f"{kind}_{name}_ratio": round(median(found), 4),
                f"{kind}_{name}_ratio_min": round(min(found), 4),
                f"{kind}_{name}_ratio_max": round(max(found), 4),
            }
    return figures


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
    barred = [f"{kind}_{name}_ratio" for kind in KINDS for name in BARRED]
    bars = {name: figures[name] >= RATIO_MIN for name in barred}
    print(json.dumps({"bench": "telemetry", "model": options.model, "figures": figures, "bars": bars}))
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
