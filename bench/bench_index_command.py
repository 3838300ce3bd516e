"""What `search_client index` makes of the server's rate, and how quickly it goes on after it was killed.

    python -m bench.bench_index_command [--pictures 10000] [--side 96] [--rounds 1]

The ceiling is the server's own rate: a bare client that streams the same kind of pictures from memory, with no files,
no look-ups and no EXIF, into the same server. Both take turns, there and back (bare, command, command, bare), each into
a collection of its own; no two turns send the same bytes. The command's time is that of its whole process, from its
start to its end, interpreter and imports included.

Then the command is killed at half (SIGKILL) and started again: nothing may be there twice, and what was done is
skipped. A further run has nothing to send at all: what it does is the skip rate. At last the folder is moved and
indexed under its new name, which must not embed anything: the server's own count of batches tells.

Ends with one JSON line; exit 1 where a bar is missed.
"""

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.bench_telemetry import settle
from bench.serving.bundles import bundle_of
from bench.serving.inputs import marked, pictures
from clip_search.client import Client
from clip_search.contents import Image, Item
from demo.server_process import ServerProcess

RATIO_MIN = 0.9
SKIP_PER_S_MIN = 2_000
_ORDER = ("bare", "command", "command", "bare")
_FILES_PER_FOLDER = 500
_PROGRAM = "from clip_search.cli import main; main()"
_POLL_SECONDS = 0.05
_EMBEDDED = re.compile(r'^clip_search_batch_inputs_sum\{[^}]*tower="image"[^}]*\} (\S+)$', re.MULTILINE)


def write_pictures(folder: Path, originals: Sequence[bytes], first: int, count: int) -> None:
    """Write so many pictures, no two of the same bytes, some hundreds to a folder."""
    for number in range(first, first + count):
        path = folder / f"{number // _FILES_PER_FOLDER:04}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(marked(originals[number % len(originals)], number))


class Commands:
    """Runs `search_client` against one server.

    Args:
        address: the server's.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def start(self, collection: str, folder: Path) -> "subprocess.Popen[str]":
        """Start indexing a folder."""
        options = ["--server", self._address, "--collection", collection, "--json", "index", str(folder)]
        return subprocess.Popen([sys.executable, "-c", _PROGRAM, *options], stdout=subprocess.PIPE, text=True)

    def run(self, collection: str, folder: Path) -> tuple[dict[str, Any], float]:
        """Index a folder; return what it prints and the seconds that the process took.

        Raises:
            RuntimeError: it failed; its message stands above.
        """
        started = time.perf_counter()
        with self.start(collection, folder) as process:
            output = process.communicate()[0]
        seconds = time.perf_counter() - started
        if process.returncode != 0:
            raise RuntimeError(f"search_client index exited with {process.returncode}; its message stands above")
        document: dict[str, Any] = json.loads(output)
        return document, seconds


def bare_rate(client: Client, originals: Sequence[bytes], first: int, count: int) -> float:
    """Stream pictures from memory; return pictures a second.

    Raises:
        RuntimeError: one was not stored.
    """

    def items() -> Iterator[Item]:
        for number in range(first, first + count):
            data = marked(originals[number % len(originals)], number)
            yield Item(f"bare/{number:06}.jpg", Image(data), {"path": f"/bare/{number:06}.jpg"})

    started = time.perf_counter()
    with client.ingest(items()) as outcomes:
        for outcome in outcomes:
            if outcome.error is not None:
                raise RuntimeError(f"{outcome.id}: {outcome.error}")
    return count / (time.perf_counter() - started)


def measured(bundle: Path, folder: Path, *, cache: Path, count: int, side: int, rounds: int) -> dict[str, float]:
    """Return the figures.

    Args:
        bundle: what is served.
        folder: for pictures, data and logs.
        cache: where the server's tuning is.
        count: pictures of each turn.
        side: of the pictures, in pixels.
        rounds: of four turns.
    """
    originals = pictures(7, side)
    options = ["--metrics-listen", "127.0.0.1:0"]
    environment = {"XDG_CACHE_HOME": str(cache)}
    log = folder / "server.log"
    with (
        ServerProcess.start(bundle, folder / "data", log=log, options=options, environment=environment) as server,
        Client(server.address, timeout_seconds=60) as client,
    ):
        commands = Commands(server.address)
        rates: dict[str, list[float]] = {"bare": [], "command": []}
        for turn, name in enumerate(_ORDER * rounds):
            collection, first = f"turn-{turn}", turn * count
            client.create_collection(collection)
            if name == "bare":
                with Client(server.address, collection=collection, timeout_seconds=60) as bare:
                    rate = bare_rate(bare, originals, first, count)
            else:
                source = folder / f"turn-{turn}"
                write_pictures(source, originals, first, count)
                document, seconds = commands.run(collection, source)
                _expect(document["stored"] == count, "all are stored")
                rate = count / seconds
                shutil.rmtree(source)
            client.delete_collection(collection)
            rates[name].append(rate)
            print(f"{name}: {rate:,.0f} pictures/s", file=sys.stderr, flush=True)
        ratio = sum(rates["command"]) / sum(rates["bare"])
        figures = {f"{name}_per_s": round(sum(found) / len(found), 1) for name, found in rates.items()}
        source = folder / "killed"
        write_pictures(source, originals, len(_ORDER) * rounds * count, count)
        return figures | {"ratio": round(ratio, 4)} | _rerun(client, commands, source, count, metrics_url(log))


def _rerun(client: Client, commands: Commands, source: Path, count: int, metrics: str) -> dict[str, float]:
    """Kill the command at half, go on, run it with nothing to do, and run it on the moved folder."""
    client.create_collection("killed")
    with Client(client.server, collection="killed", timeout_seconds=60) as killed:
        with commands.start("killed", source) as process:
            while killed.stats().items < count / 2 and process.poll() is None:
                time.sleep(_POLL_SECONDS)
            process.kill()
        at_kill = killed.stats().items
        _expect(count / 2 <= at_kill < count, f"it was killed at half, not at {at_kill} of {count}")
        going_on, _ = commands.run("killed", source)
        _expect(going_on["skipped"] >= at_kill, f"what was done is skipped: {going_on['skipped']} of {at_kill}")
        _expect(going_on["skipped"] + going_on["stored"] == count, "the rest is stored")
        _expect(killed.stats().items == count, "nothing is there twice")
        nothing, nothing_seconds = commands.run("killed", source)
        _expect(nothing["skipped"] == count, "nothing is left to send")
        before = embedded(metrics)
        moved_to = source.with_name("moved")
        source.rename(moved_to)
        moved, moved_seconds = commands.run("killed", moved_to)
        _expect(moved["stored"] == count, "moved pictures are stored under their new names")
        return {
            "stored_when_killed": at_kill,
            "skipped_after": going_on["skipped"],
            "skip_per_s": round(count / nothing_seconds, 1),
            "skip_per_s_without_start": round(count / nothing["elapsed_seconds"], 1),
            "moved_per_s": round(count / moved_seconds, 1),
            "embedded_when_moved": embedded(metrics) - before,
        }


def _expect(holds: bool, what: str) -> None:  # noqa: FBT001 - what is expected
    if not holds:
        raise RuntimeError(f"expected that {what}")


def embedded(metrics: str) -> float:
    """Return how many pictures the server has embedded."""
    with urllib.request.urlopen(metrics, timeout=10) as response:  # noqa: S310 - our own server's
        return sum(float(value) for value in _EMBEDDED.findall(response.read().decode()))


def metrics_url(log: Path) -> str:
    """Return where a server tells its metrics, as its log says."""
    found = re.search(r"metrics at (\S+)", log.read_text(encoding="utf-8"))
    if found is None:
        raise RuntimeError(f"{log} does not say where the metrics are. This is a bug.")
    return found[1]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000, help="of each turn")
    parser.add_argument("--side", type=int, default=96, help="of a picture, in pixels")
    parser.add_argument("--rounds", type=int, default=1, help="of four turns each")
    parser.add_argument(
        "--unsettled", action="store_true", help="do not wait for the server's tuning (for a quick try)"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    folder = Path(tempfile.mkdtemp(prefix="bench-index-command-"))
    try:
        bundle, cache = bundle_of("demo"), folder / "cache"
        if not options.unsettled:
            settle(bundle, cache)
        figures = measured(
            bundle, folder, cache=cache, count=options.pictures, side=options.side, rounds=options.rounds
        )
    finally:
        shutil.rmtree(folder)
    bars = {
        "ratio": figures["ratio"] >= RATIO_MIN,
        "skip_per_s": figures["skip_per_s"] >= SKIP_PER_S_MIN,
        "embedded_when_moved": figures["embedded_when_moved"] == 0,
    }
    print(json.dumps({"bench": "index_command", "pictures": options.pictures, "figures": figures, "bars": bars}))
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
