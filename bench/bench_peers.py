"""Other embedding servers beside `clip-search serve`: the same weights, inputs and machine, in one run.

    python -m bench.bench_peers [--infinity-python PATH] [--clip-as-service-python PATH] [--rounds 3] [--seconds 4]

The model is a ViT-B/32 of true shape with random weights and CLIP's own vocabulary. Every server computes in FP32 on
the processor, runs from an environment of its own and is asked over its own protocol by clients whose processor time is
measured and taken off. First their embeddings must agree with ours, or nothing is measured. Then every load is put to
one server after the other, in another order each round; figures are medians of rounds. Texts have eight tokens and
never repeat within a load; pictures are JPEGs of 224 pixels.

    lone    one client; milliseconds, median of its requests
    crowd   16 clients, one input a request
    bulk    4 clients, eight inputs a request

`make bench-peers` makes the environments, of Python 3.11 and with every package pinned in `requirements/`:

    .venv-infinity          infinity-emb[server,torch]==0.0.78 torch==2.13.0 transformers==4.57.6 click==8.1.8
    .venv-clip-as-service   clip-server==0.8.1 jina==3.25.2 docarray==0.21.1 onnxruntime==1.32.0 torch==2.13.0
                            torchvision==0.16.2, of which the server uses transforms written in Python

Ends with one JSON line; `ratios` are ours over the better of the two peers.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from bench.peers.agreement import measure_agreement
from bench.peers.checkpoint import write_checkpoint
from bench.peers.client import KINDS
from bench.peers.load import BULK, CROWD, LONE, run_load, throughput
from bench.peers.servers import running_servers
from bench.peers.traced import write_traced_towers
from clip_search_export.exporter import export

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".bench"
LOADS = {"lone": LONE, "crowd": CROWD, "bulk": BULK}
OURS = "clip-search"
GOALS = {"text_crowd_per_s": 3.0, "image_crowd_per_s": 1.3}

Figures = dict[str, dict[str, float]]


def _measure(addresses: Mapping[str, str], rounds: int, seconds: float) -> Figures:
    """Return the figures of each server; every load goes from server to server, round by round."""
    found: dict[str, dict[str, list[float]]] = {server: {} for server in addresses}
    servers = list(addresses)
    for number in range(rounds):
        for kind in KINDS:
            for name, load in LOADS.items():
                for server in servers[number % len(servers) :] + servers[: number % len(servers)]:
                    report = run_load(server, addresses[server], kind, load, seconds=seconds, seed=number + 1)
                    key = f"{kind}_{name}"
                    figures = {
                        f"{key}_p50_ms": median(report.answered_ms),
                        f"{key}_per_s": throughput(report, _cores()),
                        f"{key}_client_cores": report.cpu_seconds / report.seconds,
                    }
                    for figure, value in figures.items():
                        found[server].setdefault(figure, []).append(value)
                    print(f"round {number + 1} {server} {key}: {_rounded(figures)}", file=sys.stderr, flush=True)
    return {
        server: _rounded({figure: median(values) for figure, values in rows.items()}) for server, rows in found.items()
    }


def _ratios(figures: Figures) -> dict[str, float]:
    """Return how many times as good ours is as the better peer, for every rate and every lone client's wait."""
    peers = [rows for server, rows in figures.items() if server != OURS]
    ratios = {}
    for figure, value in figures[OURS].items():
        if figure.endswith("_lone_p50_ms"):
            ratios[figure] = min(rows[figure] for rows in peers) / value
        elif figure.endswith("_per_s") and "_lone_" not in figure:
            ratios[figure] = value / max(rows[figure] for rows in peers)
    return _rounded(ratios)


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in figures.items()}


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def main() -> int:
    """Prepare, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--infinity-python", default=str(ROOT / ".venv-infinity/bin/python"), metavar="PATH")
    parser.add_argument("--clip-as-service-python", default=str(ROOT / ".venv-clip-as-service/bin/python"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each load lasts")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    pythons = {"infinity": options.infinity_python, "clip-as-service": options.clip_as_service_python}
    checkpoint = write_checkpoint(WORK / "peers-vit-b-32", pythons["clip-as-service"])
    traced = write_traced_towers(checkpoint, WORK / "peers-vit-b-32-traced")
    bundle = WORK / "peers-vit-b-32-bundle"
    if not bundle.exists():
        export(str(checkpoint), bundle, precision="fp32")
    folder = Path(tempfile.mkdtemp(prefix="bench-peers-"))
    try:
        with running_servers(bundle, checkpoint, traced, pythons, folder) as addresses:
            agreement = measure_agreement(addresses)
            print(f"centred cosines with {OURS}: {agreement}", file=sys.stderr, flush=True)
            figures = _measure(addresses, options.rounds, options.seconds)
    finally:
        shutil.rmtree(folder)
    ratios = _ratios(figures)
    goals = {name: ratios[name] >= goal for name, goal in GOALS.items()}
    result = {"bench": "peers", "cores": _cores(), "agreement": agreement, "figures": figures}
    print(json.dumps(result | {"ratios": ratios, "goals": goals}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
