"""The benchmark of the index runs from end to end, and judges what it finds."""

import json
import sys
from pathlib import Path

import pytest

from bench import bench_index


@pytest.mark.slow
def test_it_ends_with_one_line_of_figures_and_bars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a small collection, that is built once, kept, and not changed by being measured."""
    words = ["--rows", "600", "--dim", "16", "--seconds", "0.2", "--tail-rows", "128", "--build-threads", "1", "--data"]
    monkeypatch.setattr(sys, "argv", ["bench_index", *words, str(tmp_path)])
    before: dict[str, int] = {}
    for built in (600, 0):
        assert bench_index.main() == 0
        figures = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert figures["build"]["rows"] == built
        assert figures["recall"] >= 0.98
        (round_,) = figures["rounds"]
        assert round_["rows_per_s"] > 0
        assert round_["snapshots"] > 0
        assert round_["beside_ingest"]["count"] > 0
        assert figures["passed"] == all(bar["holds"] for bar in figures["bars"].values())
        (folder,) = tmp_path.iterdir()
        files = {path.name: path.stat().st_size for path in folder.glob("*s/*")}
        assert files == (before or files)
        before = files


def test_bars_are_what_the_figures_are_compared_with() -> None:
    """At a bar it holds, beyond it not; of several rounds the median counts."""
    figures = {
        "recall": 0.98,
        "restart_s": 10.0,
        "rounds": [{"p99_ratio_ingest": ratio, "p99_ratio_snapshots": 2.0} for ratio in (1.0, 2.0, 9.0)],
        "memory": {moment: {"ratio": 1.25} for moment in ("opened", "searched", "after_ingest")},
        "filtered": {share: {"recall": 0.98, "times_unfiltered": 5.0} for share in ("0.01", "0.1", "0.5")},
    }
    assert all(bar["holds"] for bar in bench_index.judged(figures).values())
    worse = {
        "recall": 0.979,
        "restart_s": 10.1,
        "rounds": [{"p99_ratio_ingest": 2.1, "p99_ratio_snapshots": 2.1}],
        "memory": {moment: {"ratio": 1.26} for moment in ("opened", "searched", "after_ingest")},
        "filtered": {share: {"recall": 0.97, "times_unfiltered": 5.1} for share in ("0.01", "0.1", "0.5")},
    }
    assert not any(bar["holds"] for bar in bench_index.judged(worse).values())
