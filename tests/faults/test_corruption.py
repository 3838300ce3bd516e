"""Single bits are flipped in every kind of file that a collection has."""

from pathlib import Path

import pytest

from tests.faults.corruption import flips_that_pass, log_flips_that_pass, store_flips_that_pass
from tests.faults.power_cut_history import FOLDER, final_items, recorded_history

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.mark.parametrize("pattern", ["segments/*.graph", "segments/*.vectors", "segments/*.rows", "generations/*.json"])
def test_a_flipped_bit_of_a_derived_file_is_reported_and_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    """Whatever bit of a segment or manifest flips, opening reports it, and every item and answer is right."""
    history = recorded_history(tmp_path / "disk", monkeypatch, "always", seeds=[6])
    folder = tmp_path / "disk" / FOLDER
    assert flips_that_pass(folder, final_items(history), pattern, 12, tmp_path / "remains") == []


def test_a_flipped_bit_of_the_store_is_never_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever bit of the store flips, what cannot be read is refused, and what can be read is right."""
    history = recorded_history(tmp_path / "disk", monkeypatch, "always", seeds=[6])
    folder = tmp_path / "disk" / FOLDER
    assert store_flips_that_pass(folder, final_items(history), 40, tmp_path / "remains") == []


def test_a_flipped_bit_of_the_log_leaves_an_earlier_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever bit of SQLite's log flips, a state of before is served, and one behind its generation is reported."""
    history = recorded_history(tmp_path / "disk", monkeypatch, "always", seeds=[6])
    assert log_flips_that_pass(history, 30, tmp_path / "remains") == []
