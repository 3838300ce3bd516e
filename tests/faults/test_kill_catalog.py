"""Processes that change a catalog or make backups are killed at random moments."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_search_server.errors import NotFoundError
from clip_search_server.index import Collection, DataFolder, Record
from clip_search_server.index.backup import back_up
from clip_search_server.index.catalog_file import CatalogContents
from clip_search_server.index.restore import find_backup, read_backup, restore
from tests.faults.catalog_victim import CHANGES, SPACE, changes
from tests.faults.nursery import Nursery, open_nursery
from tests.unit.index.support import random_vectors, silent

pytestmark = pytest.mark.faults

KILLS_OF_CHANGES = 150
KILLS_OF_BACKUPS = 60


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    """A nursery, ready."""
    with open_nursery("tests.faults.catalog_victim") as nursery:
        yield nursery


def _kill_one(
    nursery: Nursery, what: str, folder: Path, seed: int, *, answers_max: int, delay_seconds_max: float
) -> int:
    """Let a victim work, kill it at the seed's moment, and return how many changes it acknowledged."""
    chance = random.Random(seed)
    answers = chance.randrange(answers_max)
    delay_seconds = chance.random() * delay_seconds_max
    said = nursery.kill_one(what, folder, seed, lines=answers, delay_seconds=delay_seconds)
    assert said == [f"did {number}" for number in range(1, len(said) + 1)]
    return len(said)


@pytest.mark.timeout(600)
def test_kill_at_any_moment_of_a_change_leaves_the_old_or_the_new_catalog(nursery: Nursery, tmp_path: Path) -> None:
    """Through 150 kills, collections and aliases are those acknowledged, or one change more; nothing else is left."""
    data = tmp_path / "data"
    contents = CatalogContents()
    mid_change = 0
    for seed in range(KILLS_OF_CHANGES):
        done = _kill_one(nursery, "catalog", data, seed, answers_max=CHANGES, delay_seconds_max=0.01)
        foretold = [contents, *(after for _make, after in changes(seed, contents))]
        mid_change += bool(list(data.glob("*.tmp")) + list((data / "collections").glob(".*")))
        with DataFolder(data, silent) as folder:
            folder.note_findings()
            found = folder.contents
            assert found in foretold[done : done + 2], f"round {seed}: not what was acknowledged"
            for name in found.collections:
                Collection.open_existing(folder.folder_of(name)).close()
        assert {path.name for path in (data / "collections").iterdir()} == set(found.collections)
        contents = found
    # The loop proves little unless the kills fell where they hurt.
    assert mid_change >= KILLS_OF_CHANGES // 20, mid_change


@pytest.mark.timeout(600)
def test_kill_at_any_moment_of_a_backup_leaves_whole_backups_alone(nursery: Nursery, tmp_path: Path) -> None:
    """Whatever is named like a backup is whole, acknowledged ones are there, and the newest can be restored."""
    vectors = random_vectors(200, seed=1)
    with DataFolder(tmp_path / "data", silent) as folder:
        folder.create("pets", SPACE)
        collection = Collection.open_existing(folder.folder_of("pets"))
        collection.upsert([Record(f"{at}", vectors[at]) for at in range(200)])
        collection.snapshot()
        collection.close()
    backups = tmp_path / "backups"
    mid_backup = 0
    for seed in range(KILLS_OF_BACKUPS):
        done = _kill_one(nursery, "backup", tmp_path, seed, answers_max=5, delay_seconds_max=0.05)
        mid_backup += bool(list(backups.glob(".partial-*")))
        whole = sorted(backups.glob("0*")) if backups.exists() else []
        for path in whole:
            read_backup(path)
        assert len(whole) >= min(done, 3)
    assert mid_backup >= KILLS_OF_BACKUPS // 10, mid_backup
    back_up(tmp_path / "data", backups, report=silent, keep=3)
    assert len(list(backups.glob("0*"))) == 3
    assert not list(backups.glob(".partial-*"))
    restore(find_backup(backups), tmp_path / "copy", report=silent)
    restored = Collection.open_existing(tmp_path / "copy" / "collections" / "pets")
    assert restored.item_count == 200
    restored.close()
    with pytest.raises(NotFoundError):
        find_backup(tmp_path / "copy")
