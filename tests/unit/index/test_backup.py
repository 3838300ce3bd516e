"""Backups hold everything, appear whole, and are never restored damaged."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clip_search_server.errors import (
    DataLossError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
)
from clip_search_server.index import Collection, DataFolder, IndexSettings, Record, Space, backup
from clip_search_server.index.backup import back_up
from clip_search_server.index.restore import find_backup, read_backup, restore
from tests.unit.index.crashes import CrashError, crash_at
from tests.unit.index.support import DIM, REPO, SPACE, digests_of, random_vectors, silent, wait_until, write_and_die

VECTORS = random_vectors(300, seed=9)
SETTINGS = IndexSettings(tail_rows_max=64)


def _fill(collection: Collection) -> None:
    for first in range(0, 256, 64):
        collection.upsert(
            [
                Record(
                    f"item {at}", VECTORS[at], {"number": at}, f"text {at}", b"picture" if at % 3 else b"", b"digest"
                )
                for at in range(first, first + 64)
            ]
        )
        wait_until(lambda: collection.stats().tail_row_count == 0)
    collection.delete([f"item {at}" for at in range(0, 100, 9)])
    collection.upsert([Record(f"item {at}", VECTORS[at - 1]) for at in range(250, 290)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder of a server that was stopped: two collections and an alias."""
    data = tmp_path / "data"
    with DataFolder(data, silent) as folder:
        folder.create("pets", Space(SPACE, DIM))
        folder.create("empty", Space("another", 3))
        folder.set_aliases({"current": "pets"})
        collection = Collection.open_existing(folder.folder_of("pets"), settings=SETTINGS)
        _fill(collection)
        collection.snapshot()
        collection.close()
    return data


def _everything(data: Path) -> object:
    """All that a user can see of a data folder."""
    with DataFolder(data, silent) as folder:
        seen: dict[str, object] = {"aliases": dict(folder.contents.aliases)}
        for name in folder.contents.collections:
            collection = Collection.open_existing(folder.folder_of(name), settings=SETTINGS)
            try:
                items = collection.list_items(limit=1000)
                seen[name] = (
                    collection.space_id,
                    collection.sequence,
                    [(item.id, item.sequence, item.vector.tobytes(), item.attributes, item.text) for item in items],
                    collection.thumbnails([item.id for item in items]),
                    collection.digests([item.id for item in items]),
                    len(collection.stats().segments),
                    collection.stats().damage,
                    collection.search(VECTORS[0], limit=20).neighbours if collection.dim == DIM else None,
                )
            finally:
                collection.close()
        return seen


def test_what_is_restored_equals_what_was_backed_up(data: Path, tmp_path: Path) -> None:
    """Items, thumbnails, digests, sequences, segments, answers and aliases; labels go on where they were."""
    made = back_up(data, tmp_path / "backups", report=silent)
    assert made.items == {"empty": 0, "pets": 278}
    restore(tmp_path / "backups", tmp_path / "copy", report=silent)
    assert _everything(tmp_path / "copy") == _everything(data)


def test_a_backup_changes_nothing(data: Path, tmp_path: Path) -> None:
    """Not a byte of the data folder."""
    before = digests_of(data)
    back_up(data, tmp_path / "backups", report=silent)
    assert digests_of(data) == before


def test_a_log_that_a_crash_left_is_in_the_backup(data: Path, tmp_path: Path) -> None:
    """Acknowledged writes that are only in the log are copied, and the log stays as it is."""
    write_and_die(data / "collections" / "pets")
    assert (data / "collections" / "pets" / "store.sqlite3-wal").stat().st_size
    before = digests_of(data)
    made = back_up(data, tmp_path / "backups", report=silent)
    assert made.items["pets"] == 279
    assert digests_of(data) == before
    restore(made.path, tmp_path / "copy", report=silent)
    assert _everything(tmp_path / "copy") == _everything(data)


def test_a_folder_in_use_is_refused(data: Path, tmp_path: Path) -> None:
    """Offline means offline; nothing is made."""
    with DataFolder(data, silent), pytest.raises(FailedPreconditionError, match="in use by another server"):
        back_up(data, tmp_path / "backups", report=silent)
    assert not (tmp_path / "backups").exists()


def test_a_backup_of_a_busy_collection_is_one_moment(data: Path, tmp_path: Path) -> None:
    """While this process writes and seals, another makes backups; each holds a prefix of what was written."""
    program = (
        "import sys; from pathlib import Path; from clip_search_server.index.backup import back_up\n"
        "back_up(Path(sys.argv[1]), Path(sys.argv[2]), report=print, online=True)\n"
    )
    stop = threading.Event()
    with DataFolder(data, silent) as folder:
        collection = Collection.open_existing(folder.folder_of("pets"), settings=SETTINGS)

        def write() -> None:
            for at in range(100_000):
                if stop.is_set():
                    return
                # Two items a commit: a backup that holds one of them holds the other.
                collection.upsert([Record(f"{half} {at % 500:03}", VECTORS[at % 300], text=f"{at}") for half in "ab"])

        writer = threading.Thread(target=write)
        writer.start()
        try:
            command = [sys.executable, "-c", program, str(data), str(tmp_path / "backups")]
            for _ in range(3):
                done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, timeout=100)
                assert done.returncode == 0, done.stderr
                held = collection.sequence
                wait_until(lambda held=held: collection.sequence > held)  # type: ignore[misc]
        finally:
            stop.set()
            writer.join()
            collection.close()
    sequences = []
    for number, path in enumerate(sorted((tmp_path / "backups").glob("0*"))):
        restore(path, tmp_path / f"copy {number}", report=silent)
        restored = Collection.open_existing(tmp_path / f"copy {number}" / "collections" / "pets", settings=SETTINGS)
        texts = {item.id: item.text for item in restored.list_items(limit=2000) if item.id[0] in "ab"}
        assert texts
        assert {item_id[1:] for item_id in texts if item_id[0] == "a"} == {
            item_id[1:] for item_id in texts if item_id[0] == "b"
        }
        assert all(texts[f"a{item_id[1:]}"] == texts[f"b{item_id[1:]}"] for item_id in texts)
        assert restored.stats().damage == ()
        sequences.append(restored.sequence)
        restored.close()
    assert len(sequences) == 3
    assert sequences == sorted(set(sequences))


def test_only_the_newest_are_kept(data: Path, tmp_path: Path) -> None:
    """Names count up, and `keep` removes the oldest after the new one is there."""
    backups = tmp_path / "backups"
    for _ in range(2):
        back_up(data, backups, report=silent)
    made = back_up(data, backups, report=silent, keep=2)
    names = sorted(path.name for path in backups.iterdir() if path.name != "lock")
    assert [name.partition("-")[0] for name in names] == ["00000002", "00000003"]
    assert find_backup(backups) == made.path


def test_a_crash_at_any_step_leaves_no_half_backup(data: Path, tmp_path: Path) -> None:
    """Whichever step is the last, what is named like a backup is whole, and the next backup cleans up."""
    backups = tmp_path / "backups"
    before = digests_of(data)
    back_up(data, backups, report=silent)
    for step in range(1, 400, 3):
        crashed = False
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step)
            try:
                back_up(data, backups, report=silent, keep=1)
            except CrashError:
                crashed = True
        published = sorted(backups.glob("0*"))
        assert published
        for path in published:
            read_backup(path)
        if not crashed:
            break
    else:
        pytest.fail("the backup never ran to its end")
    assert digests_of(data) == before
    assert len(published) == 1
    assert not list(backups.glob(".partial-*"))


def test_a_crash_while_restoring_leaves_nothing_half_there(data: Path, tmp_path: Path) -> None:
    """The target appears whole or not at all, and trying again succeeds."""
    made = back_up(data, tmp_path / "backups", report=silent)
    wanted = read_backup(made.path)
    for step in range(1, 400):
        target, crashed = tmp_path / f"copy {step}", False
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step)
            try:
                restore(made.path, target, report=silent)
            except CrashError:
                crashed = True
        if target.exists():
            assert set(digests_of(target)) == set(wanted)
        else:
            assert crashed
            restore(made.path, target, report=silent)
        if not crashed:
            return
    pytest.fail("the restoration never ran to its end")


@pytest.mark.parametrize(
    "pattern", ["catalog.json", "collections/pets/store.sqlite3", "*/*/segments/*.graph", "*/*/segments/*.rows"]
)
@pytest.mark.parametrize("harm", ["flipped", "truncated", "missing"])
def test_a_damaged_backup_is_not_restored(data: Path, tmp_path: Path, pattern: str, harm: str) -> None:
    """The message names the file; the target is not even made."""
    made = back_up(data, tmp_path / "backups", report=silent)
    path = min(made.path.glob(pattern))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if harm != "missing":
        path.write_bytes(content if harm == "flipped" else content[:-1])
    with pytest.raises(DataLossError, match=path.name):
        restore(made.path, tmp_path / "copy", report=silent)
    assert not (tmp_path / "copy").exists()


def test_a_damaged_manifest_is_not_trusted(data: Path, tmp_path: Path) -> None:
    """The list of files has a digest of its own."""
    made = back_up(data, tmp_path / "backups", report=silent)
    path = made.path / "backup.json"
    path.write_bytes(path.read_bytes().replace(b"catalog.json", b"catalog.jsom"))
    with pytest.raises(DataLossError, match="SHA-256"):
        restore(made.path, tmp_path / "copy", report=silent)


def test_a_backup_of_a_newer_format_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both numbers."""
    with monkeypatch.context() as patch:
        patch.setattr(backup, "BACKUP_FORMAT_VERSION", 5)
        made = back_up(data, tmp_path / "backups", report=silent)
    assert json.loads((made.path / "backup.json").read_bytes())["body"]["format_version"] == 5
    with pytest.raises(FailedPreconditionError, match="format 5, newer than the 1"):
        restore(made.path, tmp_path / "copy", report=silent)


def test_a_target_that_is_not_empty_is_refused(data: Path, tmp_path: Path) -> None:
    """Nothing is overwritten, not even by the right backup."""
    made = back_up(data, tmp_path / "backups", report=silent)
    before = digests_of(data)
    with pytest.raises(FailedPreconditionError, match="not empty"):
        restore(made.path, data, report=silent)
    assert digests_of(data) == before
    (tmp_path / "copy").mkdir()
    restore(made.path, tmp_path / "copy", report=silent)


def test_what_is_no_backup_is_named(tmp_path: Path) -> None:
    """An empty folder is no backup."""
    with pytest.raises(NotFoundError, match="no backup"):
        restore(tmp_path, tmp_path / "copy", report=silent)


def test_a_backup_inside_the_data_folder_is_refused(data: Path) -> None:
    """It would be lost with the folder."""
    with pytest.raises(FailedPreconditionError, match="lies inside"):
        back_up(data, data / "backups", report=silent)


def test_a_damaged_store_is_not_backed_up(data: Path, tmp_path: Path) -> None:
    """A backup that passes its digests must not preserve damage; older backups stay."""
    store = data / "collections" / "pets" / "store.sqlite3"
    content = bytearray(store.read_bytes())
    content[8192 * 6 + 5000] ^= 1
    store.write_bytes(content)
    with pytest.raises(DataLossError, match="clip-search check"):
        back_up(data, tmp_path / "backups", report=silent)
    assert not list((tmp_path / "backups").glob("0*"))


def test_damaged_segments_are_left_out(data: Path, tmp_path: Path) -> None:
    """The store is the truth: the backup says so, and restoring builds the segments again."""
    path = min(data.glob("*/*/segments/*.vectors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    said: list[str] = []
    made = back_up(data, tmp_path / "backups", report=said.append)
    assert any(path.name in line and "left out" in line for line in said)
    restore(made.path, tmp_path / "copy", report=silent)
    restored = Collection.open_existing(tmp_path / "copy" / "collections" / "pets", settings=SETTINGS)
    assert restored.item_count == 278
    assert restored.stats().damage == ()
    restored.close()


def test_a_disk_that_refuses_leaves_no_backup(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC is reported, and nothing half-made stays."""

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup, "copy_stream", full)
    with pytest.raises(UnavailableError, match="No space left"):
        back_up(data, tmp_path / "backups", report=silent)
    assert [path.name for path in (tmp_path / "backups").iterdir()] == ["lock"]
