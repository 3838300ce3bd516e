"""System calls of a victim are made to fail, or to be its last, with strace."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.index_checks import assert_answers_are_exact, assert_memory_equals_store, assert_nothing_lost
from tests.faults.index_history import OPERATIONS, WRITERS, Items, items_of, open_victim
from tests.faults.injection import under_strace
from tests.faults.nursery import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.system]

SEED = 11


def _run_under_strace(folder: Path, injection: str) -> dict[int, list[str]]:
    """Let a victim write while strace injects; return what it said, by writer."""
    victim = [sys.executable, "-B", "-m", "tests.faults.index_victim", str(folder), str(SEED)]
    ended = subprocess.run(
        under_strace(injection) + victim,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if "ptrace" in ended.stderr and "born" not in ended.stdout:
        pytest.skip(f"strace may not trace here: {ended.stderr.strip()}")
    said: dict[int, list[str]] = {writer: [] for writer in range(WRITERS)}
    for line in ended.stdout.splitlines():
        if found := re.match(r"(did|failed) (\d) (.*)", line):
            said[int(found[2])].append(f"{found[1]} {found[3]}")
    return said


def _check(folder: Path, said: dict[int, list[str]]) -> Items:
    """Open what the victim left and compare it with what it was told."""
    done = {
        writer: [int(line.split()[1]) for line in lines if line.startswith("did ")] for writer, lines in said.items()
    }
    collection = open_victim(folder)
    try:
        found = items_of(collection)
        assert_nothing_lost(found, {}, done, SEED)
        assert_answers_are_exact(collection, found)
        assert_memory_equals_store(collection)
        assert collection.stats().damage == ()
        collection.upsert([])
    finally:
        collection.close()
    return found


BOUNDARIES = {
    "fsync": [1, 2, 3, 4, 5, 6, 7, 8, 11, 16],
    "rename": [1, 2, 3, 4, 5, 6, 7, 8, 11, 16],
    "fdatasync": [1, 2, 3, 4, 6, 9, 13, 20, 30, 45],
    "pwrite64": [1, 4, 10, 25, 60, 110, 170, 240, 330, 450],
    "write": [2, 3, 5, 8, 12],
    "unlink": [1, 2, 4],
}


@pytest.mark.parametrize(("call", "at"), [(call, at) for call, places in BOUNDARIES.items() for at in places])
def test_kill_at_each_step_of_a_publication(tmp_path: Path, call: str, at: int) -> None:
    """Killed at the n-th such call of one of its threads, a victim leaves all that it acknowledged."""
    folder = tmp_path / "collection"
    said = _run_under_strace(folder, f"{call}:signal=SIGKILL:when={at}")
    assert sum(len(lines) for lines in said.values()) < WRITERS * OPERATIONS, "the victim was not killed"
    _check(folder, said)


@pytest.mark.parametrize("at", [1, 2, 4])
def test_an_fsync_error_while_opening_harms_nothing(tmp_path: Path, at: int) -> None:
    """A victim whose collection cannot be created or opened acknowledges nothing, and the next opening succeeds."""
    folder = tmp_path / "collection"
    said = _run_under_strace(folder, f"fdatasync:error=EIO:when={at}")
    assert not any(said.values())
    _check(folder, said)


@pytest.mark.parametrize("at", [8, 20, 40])
def test_an_fsync_error_in_a_commit_is_never_acknowledged(tmp_path: Path, at: int) -> None:
    """From the commit whose sync fails on, every write is refused with the reason; what was acknowledged stays."""
    folder = tmp_path / "collection"
    said = _run_under_strace(folder, f"fdatasync:error=EIO:when={at}")
    failed = [lines[-1] for lines in said.values() if lines and lines[-1].startswith("failed")]
    assert len(failed) == WRITERS
    assert all("check the disk and restart" in line for line in failed)
    _check(folder, said)


@pytest.mark.parametrize("at", [30, 200])
def test_a_full_disk_in_a_commit_is_never_acknowledged(tmp_path: Path, at: int) -> None:
    """When the log cannot grow, writes are refused from then on, and what was acknowledged stays."""
    folder = tmp_path / "collection"
    said = _run_under_strace(folder, f"pwrite64:error=ENOSPC:when={at}+")
    failed = [lines[-1] for lines in said.values() if lines and lines[-1].startswith("failed")]
    assert failed
    assert all("check the disk and restart" in line for line in failed)
    _check(folder, said)


def test_a_full_disk_while_publishing_leaves_no_half_generation(tmp_path: Path) -> None:
    """When segments and manifests cannot be named, snapshots say why, ingest stops in time, and nothing is lost."""
    folder = tmp_path / "collection"
    said = _run_under_strace(folder, "rename:error=ENOSPC:when=2+")
    last = {lines[-1] for lines in said.values()}
    assert all("no generation could be published" in line or "faster than they can be indexed" in line for line in last)
    assert any(line.startswith("did") for line in said[0])
    assert not list(folder.rglob("*.tmp"))
    _check(folder, said)
