"""The tower benchmark from the command line to its last line, with contenders that only wait."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench import bench_towers
from bench.towers.cases import Batches, Ids, Pixels
from bench.towers.contender import Embeddings, Makers, Work
from bench.towers.machine import Ceiling
from bench.towers.models import Model
from clip_search_server.bundle import Bundle
from tests.unit.bench.small_models import SMALL


class Table:
    """A contender that looks embeddings up; `seed` says in which table."""

    def __init__(self, seed: int, number_format: str = "fp32") -> None:
        self.number_format = number_format
        self._table = np.random.default_rng(seed).standard_normal((1000, 8), dtype=np.float32)
        self.runs = 0

    def images(self, pixels: Pixels) -> Work:
        """Embed pictures."""
        return lambda: self._embed(pixels.reshape(len(pixels), -1)[:, ::500].astype(np.int64))

    def texts(self, ids: Ids) -> Work:
        """Embed texts."""
        return lambda: self._embed(ids)

    def _embed(self, ids: Ids) -> Embeddings:
        self.runs += 1
        embeddings: Embeddings = self._table[ids].sum(axis=1)
        return embeddings


@pytest.fixture
def contenders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Table]:
    """Contenders on a made-up device, one of which computes something else."""
    made = {"clip-search fp32": Table(0), "optimum": Table(0), "wrong": Table(1, "bf16")}

    def make(_checkpoint: Path, _model: Model, _work: Path, _bundles: Sequence[Bundle]) -> Makers:
        return {name: lambda table=table: table for name, table in made.items()}  # type: ignore[misc]

    device = bench_towers._Device(make, {"fp32": Ceiling(1e9, 1e9, 4)}, Batches(images=(1, 2), texts=(3,)))
    monkeypatch.setattr(bench_towers, "_cpu", lambda: device)
    monkeypatch.setattr(bench_towers, "MODELS", SMALL)
    monkeypatch.setattr(bench_towers, "WORK", tmp_path)
    monkeypatch.setattr(bench_towers, "export_bundles", lambda *_: [])
    return made


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the program with `arguments`."""
    monkeypatch.setattr(sys, "argv", ["bench_towers", *arguments])
    return bench_towers.main()


def test_it_ends_with_one_json_line(
    contenders: dict[str, Table], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A contender that disagrees is not timed, named, and makes the exit status 1."""
    assert run(monkeypatch, "vit", "--seconds", "0", "--rounds", "3") == 1
    printed = capsys.readouterr().out
    figures = json.loads(printed.splitlines()[-1])
    assert figures["limits"] == {"fp32": {"gflops": 1, "gigabytes_per_s": 1.0}}
    model = figures["models"]["vit"]
    assert set(model["refused"]) == {"wrong"}
    assert "wrong was not timed" in printed
    assert [row["work"] for row in model["rows"]][:3] == ["1 picture", "2 pictures", "3 texts of 5 tokens"]
    for row in model["rows"]:
        assert row["rounds"] == 3
        assert set(row["ms"]) == {"clip-search fp32", "optimum"}
        assert set(row["ceilings"]) == {"clip-search fp32"}
    samples, timed = 2, 4 * len(model["rows"])
    assert contenders["optimum"].runs == samples + timed
    assert contenders["wrong"].runs == samples


def test_only_the_cases_asked_for_run(
    contenders: dict[str, Table], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All contenders agree: exit status 0."""
    del contenders["wrong"]
    assert run(monkeypatch, "siglip", "--seconds", "0", "--rounds", "1", "--only", "1 picture") == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["models"]["siglip"]["rows"]
    assert [row["work"] for row in rows] == ["1 picture"]


def test_nothing_is_compared_with_a_baseline_that_disagrees(
    contenders: dict[str, Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then there is no table to print."""
    contenders["optimum"] = Table(1)
    with pytest.raises(SystemExit, match=r"vit: optimum, .* disagrees: centred cosine"):
        run(monkeypatch, "vit", "--seconds", "0")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["vit-b-31"], "unknown model vit-b-31; there are vit-b-32, "),
        (["--bundle", "out"], "--bundle needs exactly one MODEL"),
        (["rn50", "vit-b-32", "--bundle", "out"], "--bundle needs exactly one MODEL"),
    ],
)
def test_a_wrong_command_line_is_explained(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit status 2, before anything is measured."""
    with pytest.raises(SystemExit) as exited:
        run(monkeypatch, *arguments)
    assert exited.value.code == 2
    assert said in capsys.readouterr().err


def test_without_a_gpu_runtime_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured on another device than the one asked for."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(SystemExit, match=r"no CUDA provider .*server-gpu"):
        run(monkeypatch, "--device", "cuda")


def test_every_contender_runs_once_a_round() -> None:
    """After one round that warms up, in an order that changes."""
    order: list[str] = []

    def work(name: str) -> Work:
        def run() -> Embeddings:
            order.append(name)
            return np.zeros((1, 1), np.float32)

        return run

    times = bench_towers._run({name: work(name) for name in "abcd"}, seconds=0, rounds_min=6)
    assert all(len(of) == 6 for of in times.values())
    rounds = ["".join(order[at : at + 4]) for at in range(0, len(order), 4)]
    assert len(rounds) == 7
    assert all(sorted(one) == list("abcd") for one in rounds)
    assert len(set(rounds)) > 2
