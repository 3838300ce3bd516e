"""Every kind of file that a collection has is damaged: single bits, sectors, ends."""

from pathlib import Path

import pytest

from tests.faults.corruption import HARMS, Harm, harms_that_pass, log_harms_that_pass, store_harms_that_pass
from tests.faults.power_cut_history import FOLDER, final_items, recorded_history

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("pattern", ["segments/*.graph", "segments/*.vectors", "segments/*.rows", "generations/*.json"])
def test_damage_to_a_derived_file_is_reported_and_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, harm: Harm
) -> None:
    """Whatever happens to a segment or manifest, opening reports it, and every item and answer is right."""
    history = recorded_history(tmp_path / "disk", monkeypatch, "always", seeds=[6])
    folder = tmp_path / "disk" / FOLDER
    assert harms_that_pass(folder, final_items(history), pattern, 12, tmp_path / "remains", harm=harm) == []


@pytest.mark.parametrize("harm", HARMS)
def test_damage_to_the_store_is_never_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Harm) -> None:
    """Whatever happens to the store, what cannot be read is refused, and what can be read is right."""
    history = recorded_history(tmp_path / "disk", monkeypatch, "always", seeds=[6])
    folder = tmp_path / "disk" / FOLDER
    assert store_harms_that_pass(folder, final_items(history), 40, tmp_path / "remains", harm=harm) == []


@pytest.mark.parametrize("harm", HARMS)
def test_damage_to_the_log_leaves_an_earlier_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Harm) -> None:
    """Whatever happens to SQLite's log, a state of before is served, and one behind its generation is reported."""
    history = recorded_history(tmp_path / "disk", monkeypatch, "always", seeds=[6])
    assert log_harms_that_pass(history, 30, tmp_path / "remains", harm=harm) == []
