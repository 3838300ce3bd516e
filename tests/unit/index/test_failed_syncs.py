"""A sync of the disk fails: what was refused has not happened, neither now nor after a restart."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_search_server.errors import UnavailableError
from clip_search_server.index import Collection, DataFolder, Record, Space, data_folder, files, recovery
from clip_search_server.index.backup import back_up, backups_in
from clip_search_server.index.catalog_file import CatalogContents
from clip_search_server.index.files import make_folder, publish_folder
from clip_search_server.index.rebuild import rebuild_data
from clip_search_server.index.restore import restore
from tests.unit.index.conftest import OpenCollection
from tests.unit.index.support import DIM, SPACE, random_vectors, silent

HERE = Space(SPACE, DIM)
VECTORS = random_vectors(40, seed=4)
STEPS_MAX = 100


def _fail_sync(patch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Have the `at`-th sync from now on fail, counting from 1; return the list that then holds its number."""
    real, failed, count = os.fsync, list[int](), 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == at:
            failed.append(count)
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    patch.setattr(os, "fsync", fsync)
    return failed


def _each_sync_fails(attempt: Callable[[], object], check: Callable[[bool], None]) -> int:
    """Make the attempt with its first sync failing, then its second and so on; return how many syncs it has.

    Args:
        attempt: what is tried; may raise UnavailableError alone.
        check: is called after each attempt in which a sync failed, and told whether the attempt was refused.
    """
    for at in range(1, STEPS_MAX):
        refused = False
        with pytest.MonkeyPatch.context() as patch:
            failed = _fail_sync(patch, at)
            try:
                attempt()
            except UnavailableError as error:
                if "Input/output error" not in str(error):
                    raise
                refused = True
        if not failed:
            return at - 1
        check(refused)
    pytest.fail("the attempt has no end")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with two collections, one of them with items and a generation, and an alias."""
    data = tmp_path / "data"
    with DataFolder(data, silent) as folder:
        for name in ("one", "two"):
            folder.create(name, HERE)
        folder.set_aliases({"current": "one"})
        collection = Collection.open_existing(folder.folder_of("one"))
        collection.upsert([Record(f"{at}", vector) for at, vector in enumerate(VECTORS)])
        collection.snapshot()
        collection.close()
    return data


def _contents(data: Path) -> CatalogContents:
    with DataFolder(data, silent) as folder:
        folder.note_findings()
        return folder.contents


def _delete(folder: DataFolder) -> None:
    folder.begin_deletion("two")
    folder.finish_deletion("two")


@pytest.mark.parametrize(
    "change",
    [lambda folder: folder.create("new", HERE), _delete, lambda folder: folder.set_aliases({"current": "two"})],
    ids=["create", "delete", "alias"],
)
def test_a_refused_change_of_the_catalog_has_not_happened(data: Path, change: Callable[[DataFolder], None]) -> None:
    """Whichever sync fails, the folder goes on as before, opens as before, and takes the same change later."""
    before = _contents(data)
    folder = DataFolder(data, silent)

    def check(refused: bool) -> None:
        nonlocal folder
        changed = folder.contents
        folder.close()
        assert _contents(data).collections == changed.collections
        if refused:
            assert changed == before == _contents(data)
            assert {path.name for path in (data / "collections").iterdir()} == set(before.collections)
        folder = DataFolder(data, silent)
        if not refused and "two" not in changed.collections:
            folder.create("two", HERE)

    try:
        assert _each_sync_fails(lambda: change(folder), check) >= 2
    finally:
        folder.close()


def test_a_deletion_that_was_refused_is_not_carried_out_by_a_restart(data: Path) -> None:
    """What was written to the collection after the refusal would be lost with it."""
    with DataFolder(data, silent) as folder:
        with pytest.MonkeyPatch.context() as patch:
            _fail_sync(patch, 2)  # the name of the catalog; its bytes come first
            with pytest.raises(UnavailableError, match="could not be deleted"):
                folder.begin_deletion("one")
        collection = Collection.open_existing(folder.folder_of("one"))
        collection.upsert([Record("later", VECTORS[0])])
        collection.close()
    with DataFolder(data, silent) as folder:
        collection = Collection.open_existing(folder.folder_of("one"))
        assert collection.item_count == len(VECTORS) + 1
        collection.close()


def test_a_creation_that_sqlite_refused_leaves_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite has errors of its own for a full disk; the message names the collection, and room is given back."""

    def full(*_args: object, **_kwargs: object) -> None:
        raise UnavailableError("store.sqlite3 cannot be created (database or disk is full); check the disk")

    with DataFolder(data, silent) as folder:
        with monkeypatch.context() as patch:
            patch.setattr(data_folder, "create_store", full)
            with pytest.raises(UnavailableError, match=r"collection 'new' could not be created .*disk is full"):
                folder.create("new", HERE)
        assert {path.name for path in (data / "collections").iterdir()} == {"one", "two"}
        folder.create("new", HERE)


def test_a_generation_that_was_refused_is_not_there(open_collection: OpenCollection) -> None:
    """Whichever sync fails, the next snapshot makes it anew instead of taking what was left for published."""
    collection = open_collection()
    collection.upsert([Record("first", VECTORS[0])])
    folder = collection.snapshot().path.parent
    collection.upsert([Record("second", VECTORS[1])])
    before = sorted(folder.iterdir())

    def check(refused: bool) -> None:
        assert refused
        assert sorted(folder.iterdir()) == before
        assert len(collection.search(VECTORS[0], limit=2).neighbours) == 2

    assert _each_sync_fails(collection.snapshot, check) == 2
    assert len(list(folder.iterdir())) == 2


def test_a_backup_that_was_refused_is_not_there(data: Path, tmp_path: Path) -> None:
    """Whichever sync fails, nothing is named like a backup and nothing half-made stays."""
    backups = tmp_path / "backups"

    def check(refused: bool) -> None:
        assert refused
        assert {path.name for path in backups.glob("*")} <= {"lock"}

    assert _each_sync_fails(lambda: back_up(data, backups, report=silent), check) >= 5
    assert len(backups_in(backups)) == 1


def test_a_restoration_that_was_refused_is_not_there(data: Path, tmp_path: Path) -> None:
    """Whichever sync fails, the target is not there and can be restored to again."""
    made = back_up(data, tmp_path / "backups", report=silent).path
    target = tmp_path / "restored" / "data"

    def check(refused: bool) -> None:
        assert refused
        assert not target.parent.exists() or list(target.parent.iterdir()) == []

    assert _each_sync_fails(lambda: restore(made, target, report=silent), check) >= 5
    assert _contents(target) == _contents(data)


def test_a_rebuild_that_was_refused_leaves_what_was_there(data: Path) -> None:
    """Whichever sync fails, the collection opens whole, and building again succeeds."""
    folder = data / "collections" / "one"

    def check(_refused: bool) -> None:
        assert list((folder / "generations").glob("*.json"))
        collection = Collection.open_existing(folder)
        stats = collection.stats()
        collection.close()
        assert (stats.damage, stats.item_count) == ((), len(VECTORS))

    def rebuild() -> None:
        for result in rebuild_data(data, report=silent, only="one"):
            if result.failure:
                raise UnavailableError(result.failure)

    assert _each_sync_fails(rebuild, check) >= 5


def test_a_folder_that_cannot_be_published_keeps_its_temporary_name(tmp_path: Path) -> None:
    """So that whoever made it removes it, as what it is."""
    (tmp_path / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        _fail_sync(patch, 1)
        with pytest.raises(OSError, match="Input/output error"):
            publish_folder(tmp_path / "temporary", tmp_path / "published")
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]


def test_the_name_of_a_folder_that_is_there_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was killed may have made it without syncing its name; a parent of others may be closed to us."""
    with monkeypatch.context() as patch:
        failed = _fail_sync(patch, 1)
        with pytest.raises(OSError, match="Input/output error"):
            make_folder(tmp_path)
        assert failed

    def forbidden(*_args: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    make_folder(tmp_path)


def test_an_opening_makes_durable_what_it_found(
    open_collection: OpenCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of generations and segments, before anything is built on them: a kill leaves names that were not."""
    synced: list[Path] = []
    monkeypatch.setattr(recovery, "sync_folder", synced.append)
    folder = open_collection().snapshot().path.parent
    assert synced == [folder, folder.with_name("segments")]


def test_opening_a_data_folder_makes_durable_what_it_found(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of the catalog and of collections, before a deletion that a kill interrupted is forgotten."""
    synced: list[Path] = []
    real = files.sync_folder

    def sync_folder(path: Path) -> None:
        synced.append(path)
        real(path)

    def write(*_args: object) -> None:
        assert {data, data / "collections"} <= set(synced)

    with DataFolder(data, silent) as folder:
        folder.begin_deletion("two")
        (data / "collections" / "two").rename(data / "collections" / ".deleted-two-0")
    for module in (files, data_folder):
        monkeypatch.setattr(module, "sync_folder", sync_folder)
    monkeypatch.setattr(data_folder, "write_catalog", write)
    with DataFolder(data, silent) as folder:
        folder.note_findings()
        assert folder.contents.deleting == frozenset()
    assert synced
