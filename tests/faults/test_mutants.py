"""Each step that durability rests on is taken away; the tests of power cuts and flipped bits must notice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clip_search_server.index import checked_json, files, own_sqlite, segment_files
from clip_search_server.index.store import Store
from tests.faults.corruption import Harm, flip_bit, flip_bit_of_next_label, harms_that_pass
from tests.faults.mutant_publishing import publish_unnamed, publish_unsynced, rename_before_sync
from tests.faults.power_cut_disk import Cut
from tests.faults.power_cut_history import FOLDER, final_items, recorded_history, telling, violations

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

Mutate = Callable[[pytest.MonkeyPatch], None]

POINTS = 60
# What a missing sync is told by: what is not synced is lost.
CUTS = (Cut("none", "none"), Cut("none", "all"), Cut("none", "some"), Cut("sectors", "all"))


def _nothing(_patch: pytest.MonkeyPatch) -> None:
    return


def _commits_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    real = Store.__init__

    def init(store: Store, *args: Any, **kwargs: Any) -> None:
        real(store, *args, **kwargs)
        store._connection.pragma("synchronous", "off")

    patch.setattr(Store, "__init__", init)


def _segments_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(segment_files, "publish_file", publish_unsynced)


def _files_are_renamed_before_they_are_synced(patch: pytest.MonkeyPatch) -> None:
    _replace_publish_file(patch, rename_before_sync)


def _published_names_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    _replace_publish_file(patch, publish_unnamed)


def _replace_publish_file(patch: pytest.MonkeyPatch, publish: Callable[..., None]) -> None:
    for module in (own_sqlite, checked_json, segment_files):
        patch.setattr(module, "publish_file", publish)


def _names_are_not_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(files, "sync_folder", lambda _folder: None)


def _segments_are_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(segment_files, "check_file", lambda _path, _entry: None)


def _manifests_are_not_checked(patch: pytest.MonkeyPatch) -> None:
    def digest(_body: object) -> "_Anything":
        return _Anything()

    patch.setattr(checked_json, "_digest", digest)


class _Anything:
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, _other: object) -> bool:
        return True

    def __ne__(self, _other: object) -> bool:
        return False


@pytest.mark.parametrize(
    ("mutate", "is_noticed"),
    [
        (_nothing, False),
        (_commits_are_not_synced, True),
        (_segments_are_not_synced, True),
        (_files_are_renamed_before_they_are_synced, True),
        (_published_names_are_not_synced, True),
        (_names_are_not_synced, True),
    ],
)
def test_a_missing_sync_does_not_survive_power_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutate: Mutate, is_noticed: bool
) -> None:
    """The same power cuts that the code survives find fault with it once a sync is taken away or comes too late."""
    with monkeypatch.context() as patch:
        mutate(patch)
        history = recorded_history(tmp_path / "disk", monkeypatch, "always", seeds=[5])
    # What is left is opened with the real code: the mutant lived before the power cut.
    found = violations(history, telling(history, POINTS), CUTS, tmp_path / "remains")
    print(f"\n{mutate.__name__}: {len(found)} violations, {found[:1]}")  # noqa: T201 - read in the report of the suite
    assert bool(found) == is_noticed, found[:3]


@pytest.mark.parametrize(
    ("mutate", "pattern", "harm", "is_noticed"),
    [
        (_nothing, "segments/*.vectors", flip_bit, False),
        (_segments_are_not_checked, "segments/*.vectors", flip_bit, True),
        (_nothing, "generations/*.json", flip_bit_of_next_label, False),
        (_manifests_are_not_checked, "generations/*.json", flip_bit_of_next_label, True),
    ],
)
def test_a_missing_digest_check_does_not_survive_flipped_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, mutate: Mutate, pattern: str, harm: Harm, is_noticed: bool
) -> None:
    """The same flipped bits that the code reports pass once a check is taken away."""
    history = recorded_history(tmp_path / "disk", monkeypatch, "always", seeds=[5])
    with monkeypatch.context() as patch:
        mutate(patch)
        folder, items = tmp_path / "disk" / FOLDER, final_items(history)
        found = harms_that_pass(folder, items, pattern, 12, tmp_path / "remains", harm=harm)
    assert bool(found) == is_noticed, found[:3]
