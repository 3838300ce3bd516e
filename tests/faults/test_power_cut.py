"""The power is cut at any moment of a collection's life; what was not synced by then is lost, or left in pieces."""

from pathlib import Path

import pytest

from tests.faults.power_cut_disk import CUTS
from tests.faults.power_cut_history import counts_of, recorded_history, spread, violations

pytestmark = pytest.mark.faults

POINTS = 500
POINTS_INTERVAL = 100


@pytest.mark.timeout(600)
def test_a_power_cut_at_any_moment_loses_nothing_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 500 moments of a life of three sessions: every acknowledged call is there, whole, and every answer exact."""
    history = recorded_history(tmp_path / "disk", monkeypatch, "always", seeds=range(3))
    counts = counts_of(history)
    print(f"\n{POINTS} power cuts among {counts}")  # noqa: T201 - read in the report of the suite
    assert counts["changes"] >= 2 * POINTS
    assert counts["renames"] >= 50
    points = spread(history, POINTS)
    assert len(points) == POINTS
    assert violations(history, points, CUTS, tmp_path / "remains") == []


@pytest.mark.timeout(300)
def test_with_interval_durability_only_the_newest_writes_may_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is the state after some earlier call, not before the newest snapshot, and every answer exact."""
    history = recorded_history(tmp_path / "disk", monkeypatch, "interval", seeds=range(3, 5))
    points = spread(history, POINTS_INTERVAL)
    assert violations(history, points, CUTS, tmp_path / "remains") == []
