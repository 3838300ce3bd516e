"""Speed of the exported towers beside other ways to run the same weights on a CPU.

    make .venv-parity/.bench-stamp       once, for the set-up that has the peers
    .venv-parity/bin/python -m bench.bench_towers [MODEL…]

Weights are random but of true shape; speed does not depend on what they say. All contenders run interleaved in one
process with the same number of threads: in each round every contender runs every case once, and what is compared is
the median over rounds of the ratio within a round, so that a machine that is busy for a while harms all alike.

Peers get more than they would in use: normalised float pictures are handed to them ready, and PyTorch and OpenVINO run
texts unpadded. Only optimum's text tower runs padded to the context, as it ships.

Ends with one JSON line: for every case the median milliseconds of each contender, the ratios to optimum, and the share
of the machine's measured matrix-product peak that our FP32 arithmetic reaches.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.contenders import CONTENDERS, Contender, Ids, Work
from bench.random_vit import SHAPES, VitShape, write_checkpoint

WORK = Path(__file__).resolve().parent.parent / ".bench"
IMAGE_BATCHES = (1, 8, 32)
TEXT_LENGTHS = (5, 8, 12, 30, 77)
TEXT_BATCHES = (1, 32)
BASELINE, OURS = "optimum", "clip-search fp32"
_GEMM_SIDE = 2048


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work: `tokens` is 0 for pictures."""

    batch: int
    tokens: int = 0

    @property
    def name(self) -> str:
        """For tables."""
        kind = f"texts of {self.tokens} tokens" if self.tokens else "pictures"
        return f"{self.batch} {kind}"

    def flops(self, shape: VitShape) -> float:
        """Return the floating-point operations of the work itself, padding not counted."""
        width, layers = (shape.text_width, shape.layers_text) if self.tokens else (shape.width, shape.layers)
        tokens = self.tokens or (shape.image_size // shape.patch) ** 2 + 1
        patches = 0 if self.tokens else 2 * (tokens - 1) * 3 * shape.patch**2 * width
        return self.batch * (layers * (24 * tokens * width**2 + 4 * tokens**2 * width) + patches)


CASES = [Case(batch) for batch in IMAGE_BATCHES] + [Case(b, tokens) for b in TEXT_BATCHES for tokens in TEXT_LENGTHS]


def main() -> int:
    """Measure the models named on the command line, by default all; print a table each and one JSON line."""
    parser = argparse.ArgumentParser(description="compare the exported towers with other runtimes")
    parser.add_argument("models", nargs="*", help=f"of {', '.join(SHAPES)}; default all")
    parser.add_argument("--seconds", type=float, default=20, help="time for each case (default 20)")
    arguments = parser.parse_args()
    peak = _gemm_peak_gflops()
    print(f"peak of a matrix product in FP32: {peak:.0f} GFLOP/s on {os.cpu_count()} threads")
    results = {name: _measure_model(name, arguments.seconds, peak) for name in arguments.models or SHAPES}
    print(json.dumps({"bench": "towers", "gemm_gflops": round(peak), "models": results}))
    return 0


def _gemm_peak_gflops() -> float:
    left = np.random.default_rng(0).standard_normal((_GEMM_SIDE, _GEMM_SIDE)).astype(np.float32)
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        left @ left
        seconds.append(time.perf_counter() - started)
    return 2 * _GEMM_SIDE**3 / min(seconds) / 1e9


def _measure_model(name: str, seconds: float, peak: float) -> list[dict[str, object]]:
    shape = SHAPES[name]
    checkpoint = write_checkpoint(WORK / f"random-{name}", shape)
    contenders = {kind: make(checkpoint, WORK) for kind, make in CONTENDERS.items()}
    table = Table(title=f"{name}: milliseconds, and times as fast as {BASELINE}")
    for heading in ("work", *contenders, "share of peak"):
        table.add_column(heading, justify="right")
    rows = []
    for case in CASES:
        rounds = _run({kind: _work(case, shape, contender) for kind, contender in contenders.items()}, seconds)
        milliseconds = {kind: median(times) * 1e3 for kind, times in rounds.items()}
        ratios = {kind: _ratio(rounds[BASELINE], times) for kind, times in rounds.items()}
        share = case.flops(shape) / (milliseconds[OURS] * 1e-3) / 1e9 / peak
        cells = (f"{milliseconds[kind]:.1f} ({ratios[kind]:.2f})" for kind in contenders)
        table.add_row(case.name, *cells, f"{share:.0%}")
        rows.append(
            {
                "work": case.name,
                "rounds": len(rounds[BASELINE]),
                "ms": {kind: round(value, 2) for kind, value in milliseconds.items()},
                "speed_over_optimum": {kind: round(value, 3) for kind, value in ratios.items()},
                "share_of_peak": round(share, 3),
            }
        )
    Console(width=160).print(table)
    return rows


def _ratio(baseline: list[float], times: list[float]) -> float:
    return median(theirs / ours for theirs, ours in zip(baseline, times, strict=True))


def _work(case: Case, shape: VitShape, contender: Contender) -> Work:
    random = np.random.default_rng(case.batch * 100 + case.tokens)
    if not case.tokens:
        side = shape.image_size
        return contender.images(random.integers(0, 256, (case.batch, side, side, 3), dtype=np.uint8))
    ids: Ids = random.integers(0, shape.end_id - 1, (case.batch, case.tokens))
    ids[:, 0], ids[:, -1] = shape.end_id - 1, shape.end_id
    return contender.texts(ids)


def _run(work: Mapping[str, Work], seconds: float) -> dict[str, list[float]]:
    """Return each contender's seconds of every round; the first round warms up and is left out."""
    times: dict[str, list[float]] = {kind: [] for kind in work}
    for run in work.values():
        run()
    order = np.random.default_rng(0)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[BASELINE]) < 5:  # noqa: PLR2004 - rounds
        for kind in order.permutation(list(work)):
            started = time.perf_counter()
            work[kind]()
            times[kind].append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    sys.exit(main())
