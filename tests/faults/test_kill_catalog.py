"""Processes that change a catalog or make backups are killed at random moments."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_search_server.errors import NotFoundError
from clip_search_server.index import Collection, DataFolder, Record
from clip_search_server.index.backup import back_up
from clip_search_server.index.catalog_file import CatalogContents
from clip_search_server.index.restore import find_backup, read_backup, restore
from tests.faults.catalog_victim import CHANGES, SPACE, changes
from tests.unit.index.support import random_vectors

pytestmark = pytest.mark.faults

KILLS_OF_CHANGES = 150
KILLS_OF_BACKUPS = 60
ROOT = Path(__file__).parents[2]


def _ignore(_line: str) -> None:
    return


class Nursery:
    """A process that forks victims; see `catalog_victim`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.catalog_victim"],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def kill_one(self, what: str, folder: Path, seed: int, *, answers_max: int, delay_seconds_max: float) -> int:
        """Let a victim work, kill it at the seed's moment, and return how many changes it acknowledged."""
        assert self._process.stdin is not None
        chance = random.Random(seed)
        answers = chance.randrange(answers_max)
        self._process.stdin.write(f"{what}\t{folder}\t{seed}\n")
        self._process.stdin.flush()
        pid = int(self._line().split()[1])
        done = 0
        for _ in range(answers):
            done = self._read_did(self._line())
        time.sleep(chance.random() * delay_seconds_max)  # The moment is random on purpose.
        os.kill(pid, signal.SIGKILL)
        while (line := self._line()) != f"dead {pid}":
            done = self._read_did(line)
        return done

    def close(self) -> None:
        """End the nursery."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=30)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery died"
        return line.rstrip("\n")

    @staticmethod
    def _read_did(line: str) -> int:
        word, number = line.split()
        assert word == "did", line
        return int(number)


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    """A nursery, ready."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.mark.timeout(600)
def test_kill_at_any_moment_of_a_change_leaves_the_old_or_the_new_catalog(nursery: Nursery, tmp_path: Path) -> None:
    """Through 150 kills, collections and aliases are those acknowledged, or one change more; nothing else is left."""
    data = tmp_path / "data"
    contents = CatalogContents()
    mid_change = 0
    for seed in range(KILLS_OF_CHANGES):
        done = nursery.kill_one("catalog", data, seed, answers_max=CHANGES, delay_seconds_max=0.01)
        foretold = [contents, *(after for _make, after in changes(seed, contents))]
        mid_change += bool(list(data.glob("*.tmp")) + list((data / "collections").glob(".*")))
        with DataFolder(data, _ignore) as folder:
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
    with DataFolder(tmp_path / "data", _ignore) as folder:
        folder.create("pets", SPACE)
        collection = Collection.open_existing(folder.folder_of("pets"))
        collection.upsert([Record(f"{at}", vectors[at]) for at in range(200)])
        collection.snapshot()
        collection.close()
    backups = tmp_path / "backups"
    mid_backup = 0
    for seed in range(KILLS_OF_BACKUPS):
        done = nursery.kill_one("backup", tmp_path, seed, answers_max=5, delay_seconds_max=0.05)
        mid_backup += bool(list(backups.glob(".partial-*")))
        whole = sorted(backups.glob("0*")) if backups.exists() else []
        for path in whole:
            read_backup(path)
        assert len(whole) >= min(done, 3)
    assert mid_backup >= KILLS_OF_BACKUPS // 10, mid_backup
    back_up(tmp_path / "data", backups, report=_ignore, keep=3)
    assert len(list(backups.glob("0*"))) == 3
    assert not list(backups.glob(".partial-*"))
    restore(find_backup(backups), tmp_path / "copy", report=_ignore)
    restored = Collection.open_existing(tmp_path / "copy" / "collections" / "pets")
    assert restored.item_count == 200
    restored.close()
    with pytest.raises(NotFoundError):
        find_backup(tmp_path / "copy")
