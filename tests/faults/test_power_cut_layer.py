"""The disk that forgets what was not synced, and the recorder that feeds it; quick tests, without a marker."""

import os
import random
from pathlib import Path, PurePosixPath

import apsw
import pytest

from clip_search_server.index import page_checksums
from clip_search_server.index.files import publish_file
from tests.faults.power_cut_disk import (
    SECTOR_BYTES,
    Change,
    Cut,
    Disk,
    FileMade,
    FolderMade,
    Removed,
    Renamed,
    Synced,
    Truncated,
    Written,
)
from tests.faults.power_cut_layer import recording

ROOT = PurePosixPath()
FILE = PurePosixPath("file")
OTHER = PurePosixPath("other")


def _left(target: Path, cut: Cut, *changes: Change, seed: int = 0) -> dict[str, bytes]:
    disk = Disk()
    for change in changes:
        disk.apply(change)
    disk.write_to(target, cut, random.Random(seed))
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_a_name_needs_a_sync_of_its_folder(tmp_path: Path) -> None:
    """A file whose bytes were synced is gone where its folder was not."""
    changes = (FileMade(FILE), Written(FILE, 0, b"abc"), Synced(FILE))
    assert _left(tmp_path / "a", Cut("all", "none"), *changes) == {}
    assert _left(tmp_path / "b", Cut("none", "none"), *changes, Synced(ROOT)) == {"file": b"abc"}


def test_bytes_need_a_sync_of_their_file(tmp_path: Path) -> None:
    """A name that was synced stays with the bytes of the last sync of its file, and nothing since."""
    changes = (FileMade(FILE), Written(FILE, 0, b"abc"), Synced(ROOT))
    assert _left(tmp_path / "a", Cut("none", "all"), *changes) == {"file": b""}
    later = (Synced(FILE), Written(FILE, 1, b"X"), Truncated(FILE, 2))
    assert _left(tmp_path / "b", Cut("none", "all"), *changes, *later) == {"file": b"abc"}
    assert _left(tmp_path / "c", Cut("all", "all"), *changes, *later) == {"file": b"aX"}


def test_a_rename_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    """An unsynced rename leaves the old name or the new one, and the file that it replaced is not lost before."""
    changes = (
        *(FileMade(FILE), Written(FILE, 0, b"old"), Synced(FILE)),
        *(FileMade(OTHER), Written(OTHER, 0, b"new"), Synced(OTHER), Synced(ROOT)),
        Renamed(OTHER, FILE),
    )
    both = [{"file": b"old", "other": b"new"}, {"file": b"new"}]
    left = [_left(tmp_path / f"{seed}", Cut("none", "some"), *changes, seed=seed) for seed in range(20)]
    assert all(files in both for files in left)
    assert all(files in left for files in both)


def test_a_removal_that_was_not_synced_may_not_have_been(tmp_path: Path) -> None:
    """A removed file comes back with its bytes, unless its folder was synced since."""
    changes = (FileMade(FILE), Written(FILE, 0, b"abc"), Synced(FILE), Synced(ROOT), Removed(FILE))
    assert _left(tmp_path / "a", Cut("none", "none"), *changes) == {"file": b"abc"}
    assert _left(tmp_path / "b", Cut("none", "none"), *changes, Synced(ROOT)) == {}


def test_a_folder_in_an_unsynced_folder_is_gone_with_all_it_holds(tmp_path: Path) -> None:
    """Syncing a file and its folder does not save them where the folder's own name was not synced."""
    folder = PurePosixPath("folder")
    changes = (FolderMade(folder), FileMade(folder / "file"), Synced(folder / "file"), Synced(folder))
    assert _left(tmp_path / "a", Cut("all", "none"), *changes) == {}
    assert _left(tmp_path / "b", Cut("all", "none"), *changes, Synced(ROOT)) == {"folder/file": b""}


@pytest.mark.parametrize("data", ["sectors", "torn"])
def test_sectors_are_old_or_new_as_a_whole(tmp_path: Path, data: str) -> None:
    """Of an unsynced write each sector is as before or as after; a torn write has a beginning of new ones."""
    before, after = b"a" * 4 * SECTOR_BYTES, b"b" * 4 * SECTOR_BYTES
    changes = (FileMade(FILE), Written(FILE, 0, before), Synced(FILE), Synced(ROOT), Written(FILE, 0, after))
    cut = Cut("sectors", "all") if data == "sectors" else Cut("torn", "all")
    seen = set()
    for seed in range(60):
        content = _left(tmp_path / f"{seed}", cut, *changes, seed=seed)["file"]
        pieces = [content[at : at + SECTOR_BYTES] for at in range(0, len(content), SECTOR_BYTES)]
        assert {piece for piece in pieces if len(set(piece)) != 1} == set()
        seen.add("".join(chr(piece[0]) for piece in pieces))
    torn = {"aaaa", "baaa", "bbaa", "bbba", "bbbb"}
    assert seen == torn if data == "torn" else seen - torn


def test_publishing_is_recorded_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes, their sync, the name and its sync are recorded one after the other, and nothing is recorded afterwards."""
    temporary = PurePosixPath("file.tmp")

    def write(path: Path) -> None:
        path.write_bytes(b"abc")

    with recording(tmp_path, monkeypatch) as recorder:
        publish_file(tmp_path / "file", write)
    assert recorder.changes == [
        *(FileMade(temporary), Written(temporary, 0, b"abc"), Synced(temporary)),
        *(Renamed(temporary, FILE), Synced(ROOT)),
    ]
    (tmp_path / "file").rename(tmp_path / "later")
    assert len(recorder.changes) == 5


def test_sqlite_is_recorded_below_its_page_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What SQLite writes is recorded with checksums on; only a commit that was synced must survive."""
    if not page_checksums.available():
        pytest.skip("this apsw comes without the extension that keeps page checksums")
    root = tmp_path / "disk"
    root.mkdir()
    with recording(root, monkeypatch) as recorder:
        connection = page_checksums.connect(root / "store")
        page_checksums.add_to_new_file(connection)
        connection.execute("CREATE TABLE numbers (number)")
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        connection.execute("INSERT INTO numbers VALUES (1)")
        connection.pragma("synchronous", "normal")
        connection.execute("INSERT INTO numbers VALUES (2)")
        position = recorder.position
        connection.close()
    disk = Disk()
    for change in recorder.changes[:position]:
        disk.apply(change)
    for data, numbers in (("none", [1]), ("all", [1, 2])):
        target = tmp_path / data
        disk.write_to(target, Cut("none", "none") if data == "none" else Cut("all", "none"), random.Random(0))
        left = page_checksums.connect(target / "store")
        assert [number for (number,) in left.execute("SELECT number FROM numbers")] == numbers
        left.close()
        assert page_checksums.has_checksums(target / "store")


def test_recording_leaves_the_process_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After recording, SQLite's default and the calls of `os` are what they were, and page checksums work."""
    available = page_checksums.available()
    before = (apsw.vfs_names()[0], os.fsync, os.open, os.rename)
    with recording(tmp_path, monkeypatch):
        assert apsw.vfs_names()[0] != before[0]
    assert (apsw.vfs_names()[0], os.fsync, os.open, os.rename) == before
    assert page_checksums.available() == available
    assert "recording" not in apsw.vfs_names()


def test_a_write_past_the_recorder_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that no recorded call ever concerned makes the recording fail, so that it cannot be believed."""
    with pytest.raises(AssertionError, match="not recorded"), recording(tmp_path, monkeypatch):
        (tmp_path / "file").write_bytes(b"abc")
