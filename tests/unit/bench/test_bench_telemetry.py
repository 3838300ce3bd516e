"""The telemetry benchmark's arithmetic, and its servers once for real."""

from pathlib import Path

import pytest

from bench.bench_telemetry import measured, note_us, ratios


def test_a_round_favours_neither_on_a_machine_that_slows_down() -> None:
    """Where both are as fast and the machine loses a tenth each turn, the ratio stays near one."""
    turns = ["without", "with", "with", "without"]
    steady = [(name, 100.0 - 10 * at) for at, name in enumerate(turns)]
    slower = [(name, 50.0 if name == "with" else 100.0) for name in turns]
    assert ratios(steady + slower) == [1.0, 0.5]


def test_noting_a_call_takes_microseconds() -> None:
    """A bound that only a slip in the order of magnitude breaks, on a busy machine too."""
    assert 0 < note_us() < 100


@pytest.mark.slow
def test_both_servers_are_measured(bundle: Path, tmp_path: Path) -> None:
    """One short round: both answer, and the one with metrics was asked for them."""
    figures = measured(bundle, tmp_path, seconds=2.0, rounds=1)
    for kind in ("text", "image"):
        assert figures[f"{kind}_with_per_s"] > 0
        assert figures[f"{kind}_ratio"] > 0
    assert figures["scrapes"] >= 2
    assert figures["scrape_bytes"] > 1_000
