"""The telemetry benchmark's arithmetic, and its servers once for real."""

from pathlib import Path

import pytest

from bench.bench_telemetry import ORDER, measured, note_us, ratios


def test_a_round_favours_neither_on_a_machine_that_slows_down() -> None:
    """Where all are as fast and the machine loses a tenth each turn, the ratios are one."""
    steady = [(name, 100.0 - 10 * at) for at, name in enumerate(ORDER)]
    slower = [(name, {"with": 50.0, "traced": 25.0}.get(name, 100.0)) for name in ORDER]
    rates = steady + slower
    assert ratios(rates, "with") == [1.0, 0.5]
    assert ratios(rates, "traced") == [1.0, 0.25]
    assert ratios(rates, "traced_all") == [1.0, 1.0]


def test_noting_a_call_takes_microseconds() -> None:
    """A bound that only a slip in the order of magnitude breaks, on a busy machine too."""
    assert 0 < note_us() < 100


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_servers_are_measured(bundle: Path, tmp_path: Path) -> None:
    """One short round: all answer, and those with metrics were asked for them."""
    figures = measured(bundle, tmp_path, seconds=1.0, rounds=1, kinds=["text"])
    for name in ("with", "traced", "traced_all"):
        assert figures[f"text_{name}_per_s"] > 0
        assert figures[f"text_{name}_ratio"] > 0
    assert figures["scrapes"] >= 2
    assert figures["scrape_bytes"] > 1_000
