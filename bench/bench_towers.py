"""Speed of the exported towers beside other ways to run the same weights.

    make .venv-parity/.bench-stamp       once, for the set-up that has the peers
    .venv-parity/bin/python -m bench.bench_towers [MODEL…] [--only WORDS] [--bundle FOLDER]

Weights are random but of true shape; speed does not depend on what they say. All contenders run interleaved in one
process with the same number of threads: in each round every contender runs every case once, and what is compared is
the median over rounds of the ratio within a round, so that a machine that is busy for a while harms all alike. Before
that, each must agree with our FP32 towers on sample pictures and texts.

Peers get more than they would in use: normalised float pictures are handed to them ready, and PyTorch and OpenVINO run
texts unpadded. Only the graphs of tracing exporters run padded to the context, as they ship: optimum's, or, for RN50,
whose OpenCLIP layout optimum cannot load, PyTorch's own.

Our 8-bit towers have every product in 8 bits and are not held to the gates of an export: random weights tell inputs
apart so little that any rounding looks large. `--bundle` adds the variants of a bundle exported from `.bench/random-
MODEL`. `--device cuda` needs ONNX Runtime's GPU build and PyTorch's CUDA build; it compares FP16 with torch.compile.

Ends with one JSON line: the machine's measured limits, and for every case the median milliseconds of each contender,
the ratios to the baseline, and the share that ours reach of the least time that arithmetic and memory allow.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from bench.towers.agreement import embed_samples, measure_agreement, reason_to_refuse
from bench.towers.bundles import export_bundles
from bench.towers.cases import BATCHES, BATCHES_CUDA, Batches, Case, cases_of, random_ids, random_pixels
from bench.towers.contender import Contender, Makers, Work
from bench.towers.machine import Ceiling, fp32_flops, int8_ops, memory_bytes
from bench.towers.models import MODELS, Model
from bench.towers.results import Limit, ModelResult, Row
from clip_search_server.bundle import Bundle
from clip_search_server.encoder.sessions import choose_device
from clip_search_server.errors import FailedPreconditionError

WORK = Path(__file__).resolve().parent.parent / ".bench"
_OURS: Final = "clip-search fp32"
_BASELINES: Final = ("optimum", "traced", "PyTorch fp16 compiled")
"""The first that a model has is what the others are compared with."""
_ROUNDS_MIN: Final = 5
_NO_OPTIMUM: Final = (
    "optimum cannot load OpenCLIP's layout: traced is PyTorch's own export of the module that trains the demo model, "
    "in ONNX Runtime"
)


@dataclass(frozen=True, slots=True)
class _Device:
    """Where contenders run: how they are made, what it is capable of, and how many inputs it needs to be busy."""

    contenders: Callable[[Path, Model, Path, Sequence[Bundle]], Makers]
    ceilings: Mapping[str, Ceiling]
    batches: Batches


def main() -> int:
    """Measure the models named on the command line, by default all; exit 1 where a contender disagrees."""
    arguments = _parse()
    device = _cuda(graphs=not arguments.no_cuda_graphs) if arguments.device == "cuda" else _cpu()
    limits = {
        name: {"gflops": round(ceiling.flops / 1e9), "gigabytes_per_s": round(ceiling.memory_bytes / 1e9, 1)}
        for name, ceiling in device.ceilings.items()
    }
    for name, limit in limits.items():
        print(f"{name}: {limit['gflops']} G operations/s in a matrix product, {limit['gigabytes_per_s']} GB/s read")
    results = [_measure_model(name, device, arguments) for name in arguments.models or MODELS]
    document = {
        "bench": "towers",
        "device": arguments.device,
        "threads": os.cpu_count(),
        "limits": limits,
        "models": {result.model: result.to_json() for result in results},
    }
    print(json.dumps(document))
    return 1 if any(result.refused for result in results) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.bench_towers", description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; default all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=20, help="time for each case (default 20)")
    parser.add_argument("--rounds", type=int, default=_ROUNDS_MIN, help=f"least rounds (default {_ROUNDS_MIN})")
    parser.add_argument("--only", default="", metavar="WORDS", help="cases whose name contains this, such as '1 text'")
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="one more bundle of the same weights")
    parser.add_argument("--no-cuda-graphs", action="store_true", help="run kernels one by one")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.models if name not in MODELS]
    if unknown:
        parser.error(f"unknown model {unknown[0]}; there are {', '.join(MODELS)}.")
    if arguments.bundle and len(arguments.models) != 1:
        parser.error("--bundle needs exactly one MODEL: the one whose weights it holds.")
    return arguments


def _cpu() -> _Device:
    try:
        from bench.towers.cpu_contenders import cpu_contenders  # noqa: PLC0415 - the peers need a set-up of their own
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{error.name} is missing: run `make .venv-parity/.bench-stamp` and use that set-up."
        ) from error
    memory = memory_bytes()
    fp32, int8 = Ceiling(fp32_flops(), memory, 4), Ceiling(int8_ops(), memory, 1)
    return _Device(cpu_contenders, {"fp32": fp32, "int8": int8}, BATCHES)


def _cuda(*, graphs: bool) -> _Device:
    try:
        choose_device("cuda")
    except FailedPreconditionError as error:
        raise SystemExit(str(error)) from error
    try:
        from bench.towers.cuda_contenders import cuda_ceiling, cuda_contenders, require_cuda  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"--device cuda: {error.name} is missing: install PyTorch's CUDA build and transformers."
        ) from error
    require_cuda()
    return _Device(partial(cuda_contenders, graphs=graphs), {"fp16": cuda_ceiling()}, BATCHES_CUDA)


def _measure_model(name: str, device: _Device, arguments: argparse.Namespace) -> ModelResult:
    model = MODELS[name]
    checkpoint = model.write(WORK / f"random-{name}")
    bundles = export_bundles(checkpoint, WORK, arguments.bundle)
    makers = device.contenders(checkpoint, model, WORK, bundles)
    baseline = next(kind for kind in _BASELINES if kind in makers)
    contenders, cosines, refused = _check({kind: make() for kind, make in makers.items()}, model)
    if baseline not in contenders:
        raise SystemExit(f"{name}: {baseline}, which the others are compared with, disagrees: {refused[baseline]}.")
    rows = [
        _measure_case(case, model, contenders, device.ceilings, arguments)
        for case in cases_of(model, device.batches, arguments.only)
    ]
    notes = [_NO_OPTIMUM] if baseline == "traced" else []
    result = ModelResult(name, baseline, list(contenders), rows, cosines, refused, notes)
    Console(width=200).print(result.table())
    return result


def _check(
    contenders: Mapping[str, Contender], model: Model
) -> tuple[dict[str, Contender], dict[str, dict[str, float]], dict[str, str]]:
    """Return the contenders that agree with ours, the cosines of all, and why the others are refused."""
    samples = {name: embed_samples(contender, model) for name, contender in contenders.items()}
    cosines = {name: measure_agreement(samples[_OURS], theirs) for name, theirs in samples.items()}
    reasons = {name: reason_to_refuse(cosines[name], one.number_format) for name, one in contenders.items()}
    refused = {name: why for name, why in reasons.items() if why is not None}
    return {name: one for name, one in contenders.items() if name not in refused}, cosines, refused


def _measure_case(
    case: Case,
    model: Model,
    contenders: Mapping[str, Contender],
    ceilings: Mapping[str, Ceiling],
    arguments: argparse.Namespace,
) -> Row:
    load = case.load(model)
    limits = {
        f"clip-search {name}": Limit(ceiling.seconds(load), ceiling.bound(load))
        for name, ceiling in ceilings.items()
        if f"clip-search {name}" in contenders
    }
    work = {name: _work(case, model, contender) for name, contender in contenders.items()}
    return Row(case.name, case.batch, _run(work, arguments.seconds, arguments.rounds), limits)


def _work(case: Case, model: Model, contender: Contender) -> Work:
    if case.tokens:
        return contender.texts(random_ids(model, case.batch, case.tokens))
    return contender.images(random_pixels(model, case.batch))


def _run(work: Mapping[str, Work], seconds: float, rounds_min: int) -> dict[str, list[float]]:
    """Return each contender's seconds of every round; the first round warms up and is left out."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for run in work.values():
        run()
    order = np.random.default_rng(0)
    until = time.perf_counter() + seconds
    rounds = 0
    while time.perf_counter() < until or rounds < rounds_min:
        for name in order.permutation(list(work)):
            started = time.perf_counter()
            work[name]()
            times[name].append(time.perf_counter() - started)
        rounds += 1
    return times


if __name__ == "__main__":
    sys.exit(main())
