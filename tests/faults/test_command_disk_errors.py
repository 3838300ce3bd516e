"""The disk fails, fills up, or the process dies under `clip-search backup`, `restore` and `rebuild`."""

import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from clip_search_server.index import Collection, DataFolder, IndexSettings, Record, Space
from clip_search_server.index.backup import back_up, backups_in
from clip_search_server.index.restore import read_backup
from demo.server_process import program
from tests.faults.index_checks import assert_memory_equals_store
from tests.faults.injection import under_strace
from tests.faults.mounted_disks import small_disk
from tests.unit.index.support import DIM, SPACE, random_vectors, silent, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.system]

VECTORS = random_vectors(300, seed=2)
SETTINGS = IndexSettings(tail_rows_max=128)
IDS = {f"item {at}" for at in range(len(VECTORS))}
DISK_MIB = 2


def _fill(data: Path) -> Path:
    """Make a data folder with a collection, a sealed segment, tail rows and a generation."""
    with DataFolder(data, silent) as folder:
        folder.create("pets", Space(SPACE, DIM))
        folder.set_aliases({"current": "pets"})
        collection = Collection.open_existing(folder.folder_of("pets"), settings=SETTINGS)
        collection.upsert([Record(f"item {at}", VECTORS[at]) for at in range(200)])
        wait_until(lambda: collection.stats().tail_row_count == 0)
        collection.upsert([Record(f"item {at}", VECTORS[at]) for at in range(200, 300)])
        collection.snapshot()
        collection.close()
    return data


def _assert_whole(data: Path) -> None:
    """The data folder has all that `_fill` put there, and opens without a complaint."""
    with DataFolder(data, silent) as folder:
        assert (set(folder.contents.collections), folder.contents.aliases) == ({"pets"}, {"current": "pets"})
        collection = Collection.open_existing(folder.folder_of("pets"), settings=SETTINGS)
        try:
            assert {item.id for item in collection.list_items(limit=1000)} == IDS
            assert collection.stats().damage == ()
            assert_memory_equals_store(collection)
        finally:
            collection.close()


@dataclass(frozen=True, slots=True)
class Case:
    """One of the commands: its arguments, and what must be true where it was not carried out, and where it was."""

    arguments: Callable[[Path, Path], list[str]]
    check_refused: Callable[[Path], None]
    check_done: Callable[[Path], None]


def _no_backup(to: Path) -> None:
    assert {path.name for path in to.glob("*")} <= {"lock"}


def _whole_backups(to: Path) -> None:
    assert backups_in(to)
    for path in to.glob("0*"):
        read_backup(path)
    assert not list(to.glob(".partial-*"))


def _no_restoration(to: Path) -> None:
    assert not to.exists() or list(to.iterdir()) == []


def _whole_restoration(to: Path) -> None:
    _assert_whole(to / "data")
    assert [path.name for path in to.iterdir()] == ["data"]


def _nothing(_to: Path) -> None:
    """Rebuilding has no target; `_assert_whole` looks at the data."""


CASES = {
    "backup": Case(lambda data, to: ["--data", str(data), "--to", str(to)], _no_backup, _whole_backups),
    "restore": Case(
        lambda data, to: ["--from", str(data.with_name("kept")), "--data", str(to / "data")],
        _no_restoration,
        _whole_restoration,
    ),
    "rebuild": Case(lambda data, _to: ["--data", str(data)], _nothing, _nothing),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder, with a backup beside it."""
    data = _fill(tmp_path / "data")
    back_up(data, tmp_path / "kept", report=silent)
    return data


def _run(name: str, data: Path, to: Path, prefix: list[str]) -> subprocess.CompletedProcess[str]:
    command = [*prefix, program("clip-search"), name, "--quiet", *CASES[name].arguments(data, to)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False)


def _assert_refused(ended: subprocess.CompletedProcess[str], reason: str) -> None:
    """The command says in one line what the disk did, and exits with 1."""
    said = (ended.stderr + ended.stdout).strip()
    assert (ended.returncode, len(said.splitlines())) == (1, 1), said
    assert re.search(reason, said), said
    assert "Traceback" not in said


@pytest.mark.parametrize("at", [1, 4])
@pytest.mark.parametrize("name", CASES)
def test_failing_syncs_leave_nothing_half_made(data: Path, tmp_path: Path, name: str, at: int) -> None:
    """With every sync from the n-th on refused, a command says so and changes nothing; later it succeeds."""
    to = tmp_path / "to"
    ended = _run(name, data, to, under_strace(f"fsync,fdatasync:error=EIO:when={at}+"))
    if "ptrace" in ended.stderr:
        pytest.skip(f"strace may not trace here: {ended.stderr.strip()}")
    _assert_refused(ended, "Input/output error|disk I/O error")
    CASES[name].check_refused(to)
    _assert_whole(data)
    assert _run(name, data, to, []).returncode == 0
    CASES[name].check_done(to)
    _assert_whole(data)


@pytest.mark.parametrize(
    ("name", "call", "at"),
    [
        *((name, "fsync", at) for name in CASES for at in (1, 3, 5, 7)),
        *((name, "rename", 1) for name in CASES),
        *((name, "rename", 2) for name in ("backup", "rebuild")),  # Restoring needs one.
    ],
)
def test_a_killed_command_can_be_run_again(data: Path, tmp_path: Path, name: str, call: str, at: int) -> None:
    """Killed at its n-th sync or rename, a command leaves nothing half-made, and running it again succeeds."""
    to = tmp_path / "to"
    ended = _run(name, data, to, under_strace(f"{call}:signal=SIGKILL:when={at}"))
    if "ptrace" in ended.stderr:
        pytest.skip(f"strace may not trace here: {ended.stderr.strip()}")
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    for path in to.glob("0*"):
        read_backup(path)
    _assert_whole(data)
    assert _run(name, data, to, []).returncode == 0
    CASES[name].check_done(to)
    _assert_whole(data)


@pytest.mark.parametrize("name", CASES)
def test_a_full_disk_leaves_nothing_half_made(tmp_path: Path, name: str) -> None:
    """With no room where it writes, a command says so and changes nothing; with room it succeeds."""
    with small_disk(tmp_path, DISK_MIB) as disk:
        data = _fill(disk.folder / "data" if name == "rebuild" else tmp_path / "data")
        back_up(data, tmp_path / "kept" if name == "restore" else tmp_path / "other", report=silent)
        to = disk.folder / "to"
        disk.fill()
        _assert_refused(_run(name, data, to, []), "No space left on device|disk is full|disk I/O error")
        CASES[name].check_refused(to)
        disk.make_room()
        _assert_whole(data)
        assert _run(name, data, to, []).returncode == 0
        CASES[name].check_done(to)
        _assert_whole(data)
