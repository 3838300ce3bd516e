"""Collections and aliases on the disk: whole after a crash at any step, and nothing of one's neighbours is lost."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_search_server.errors import (
    ClipSearchError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    UnavailableError,
)
from clip_search_server.index import Collection, DataFolder, Record, Space, check_name
from clip_search_server.index.catalog_file import CatalogContents, read_catalog, write_catalog
from tests.unit.index.crashes import CrashError, crash_at
from tests.unit.index.support import DIM, SPACE, random_vectors

HERE = Space(SPACE, DIM)
VECTORS = random_vectors(5, seed=1)


@pytest.fixture
def said() -> list[str]:
    """What data folders reported."""
    return []


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with the collections `one`, holding an item, and `two`, and the alias `current` of `one`."""
    with DataFolder(tmp_path / "data", lambda _line: None) as folder:
        folder.create("one", HERE)
        folder.create("two", HERE)
        folder.set_aliases({"current": "one"})
        with_item = Collection.open_existing(folder.folder_of("one"))
        with_item.upsert([Record("item", VECTORS[0])])
        with_item.close()
    return tmp_path / "data"


def _contents(data: Path) -> CatalogContents:
    with DataFolder(data, lambda _line: None) as folder:
        for name in folder.contents.collections:
            Collection.open_existing(folder.folder_of(name)).close()
        return folder.contents


def _items(data: Path, name: str) -> int:
    collection = Collection.open_existing(data / "collections" / name)
    try:
        return collection.item_count
    finally:
        collection.close()


@pytest.mark.parametrize("name", ["a", "0", "default", "a-b_c", "x" * 64])
def test_names_that_are_accepted(name: str) -> None:
    """Lower-case letters, digits, `_` and `-`."""
    check_name(name, "collection")


@pytest.mark.parametrize(
    "name", ["", "A", "Default", "-a", "_a", ".", "..", "a.b", "a/b", "/a", "../a", "a\n", "a ", "é", "x" * 65, "a\0"]
)
def test_names_that_are_refused(name: str) -> None:
    """Nothing that could leave the folder, hide in it, or meet another name where case does not count."""
    with pytest.raises(InvalidArgumentError, match="a name has 1 to 64 characters") as caught:
        check_name(name, "collection")
    assert caught.value.field == "collection"


def test_what_was_made_is_there_after_a_restart(data: Path) -> None:
    """Collections with their spaces, and aliases."""
    assert _contents(data) == CatalogContents({"one": HERE, "two": HERE}, {"current": "one"})


def test_a_second_user_of_the_folder_is_refused(data: Path) -> None:
    """One data folder, one process; the message has its number."""
    with DataFolder(data, lambda _line: None), pytest.raises(FailedPreconditionError, match=str(os.getpid())):
        DataFolder(data, lambda _line: None)


def test_a_deleted_collection_leaves_nothing(data: Path) -> None:
    """Neither files nor a name; the name can be used again at once."""
    with DataFolder(data, lambda _line: None) as folder:
        _delete(folder, "one")
        assert sorted(path.name for path in (data / "collections").iterdir()) == ["two"]
        folder.create("one", HERE)
    assert _items(data, "one") == 0


def _delete(folder: DataFolder, name: str) -> None:
    folder.begin_deletion(name)
    folder.finish_deletion(name)


CHANGES: dict[str, tuple[Callable[[DataFolder], None], CatalogContents]] = {
    "create": (
        lambda folder: folder.create("new", HERE),
        CatalogContents({"new": HERE, "one": HERE, "two": HERE}, {"current": "one"}),
    ),
    "delete": (
        lambda folder: _delete(folder, "two"),
        CatalogContents({"one": HERE}, {"current": "one"}),
    ),
    "alias": (
        lambda folder: folder.set_aliases({"current": "two"}),
        CatalogContents({"one": HERE, "two": HERE}, {"current": "two"}),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_crash_at_any_step_leaves_the_old_or_the_new(data: Path, change: str) -> None:
    """Whichever step is the last, the folder opens as it was or as it is to be, neighbours untouched, no leftovers."""
    make, after = CHANGES[change]
    before = CatalogContents({"one": HERE, "two": HERE}, {"current": "one"})
    seen = set()
    for step in range(1, 200):
        with DataFolder(data, lambda _line: None) as folder:
            _restore(folder, before)
        with pytest.MonkeyPatch.context() as patch, DataFolder(data, lambda _line: None) as folder:
            crash_at(patch, step)
            try:
                make(folder)
                crashed = False
            except CrashError:
                crashed = True
        contents = _contents(data)
        assert contents in (before, after), f"crash at step {step}"
        assert crashed or contents == after
        seen.add(contents == after)
        assert {path.name for path in (data / "collections").iterdir()} == set(contents.collections)
        assert not list(data.rglob("*.tmp"))
        assert _items(data, "one") == 1
        if not crashed:
            break
    else:
        pytest.fail("the change never ran to its end")
    assert seen == {False, True}


def _restore(folder: DataFolder, wanted: CatalogContents) -> None:
    for name in set(folder.contents.collections) - set(wanted.collections):
        _delete(folder, name)
    for name in set(wanted.collections) - set(folder.contents.collections):
        folder.create(name, HERE)
    folder.set_aliases(wanted.aliases)


@pytest.mark.parametrize("change", CHANGES)
def test_a_disk_that_refuses_changes_nothing(data: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog that cannot be written is reported, and the folder goes on as it was."""
    before = _contents(data)

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with DataFolder(data, lambda _line: None) as folder:
        with monkeypatch.context() as patch:
            patch.setattr("clip_search_server.index.data_folder.write_catalog", full)
            with pytest.raises(UnavailableError, match="No space left"):
                CHANGES[change][0](folder)
        assert folder.contents == before
    assert _contents(data) == before


def test_a_deletion_is_finished_at_the_next_opening(
    data: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that the disk would not let go do not bring an acknowledged deletion back."""

    def stuck(*_args: object, **_kwargs: object) -> None:
        raise OSError(16, "Device or resource busy")

    with DataFolder(data, said.append) as folder:
        folder.begin_deletion("two")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", stuck)
            folder.finish_deletion("two")
        assert any("could not all be removed" in line for line in said)
        assert (data / "collections" / "two").exists()
    with DataFolder(data, said.append) as folder:
        assert set(folder.contents.collections) == {"one"}
    assert not (data / "collections" / "two").exists()
    assert any("finishing the deletion" in line for line in said)


def test_leftovers_are_reported_and_removed(data: Path, said: list[str]) -> None:
    """Interrupted creations and deletions, and folders in which there never was a collection."""
    for name in (".creating-new", ".deleted-old-12345678", "shell"):
        (data / "collections" / name).mkdir()
        (data / "collections" / name / "store.sqlite3.tmp").write_bytes(b"half")
    DataFolder(data, said.append).close()
    assert sorted(path.name for path in (data / "collections").iterdir()) == ["one", "two"]
    assert len(said) == 3


def test_strange_folders_are_left_alone(data: Path, said: list[str]) -> None:
    """What cannot be a collection is reported and never removed."""
    for name in ("Photos", "notes", "current"):
        (data / "collections" / name).mkdir()
        (data / "collections" / name / "holiday.jpg").write_bytes(b"x")
    with DataFolder(data, said.append) as folder:
        assert set(folder.contents.collections) == {"one", "two"}
    assert len(list((data / "collections").rglob("holiday.jpg"))) == 3
    assert len(said) == 3


def test_folders_without_a_catalog_are_found(data: Path, said: list[str]) -> None:
    """A data folder that an older release made, or a collection that was copied here."""
    (data / "catalog.json").unlink()
    with DataFolder(data, said.append) as folder:
        assert not (data / "catalog.json").exists()
        folder.note_findings()
    assert read_catalog(data / "catalog.json") == CatalogContents({"one": HERE, "two": HERE})
    assert len(said) == 2


def test_a_vanished_collection_stays_listed(data: Path) -> None:
    """Its name is not free, and asking for it says what is missing; its neighbours are there."""
    (data / "collections" / "one").rename(data / "elsewhere")
    with DataFolder(data, lambda _line: None) as folder:
        assert set(folder.contents.collections) == {"one", "two"}
        with pytest.raises(DataLossError, match="missing although the catalog lists 'one'"):
            folder.folder_of("one")
        folder.folder_of("two")


@pytest.mark.parametrize("harm", ["flipped", "truncated", "empty"])
def test_a_damaged_catalog_is_refused(data: Path, harm: str) -> None:
    """Aliases are nowhere else: nothing is guessed, and the message says what to do."""
    path = data / "catalog.json"
    whole = path.read_bytes()
    flipped = whole.replace(b'"one"', b'"ono"')
    path.write_bytes({"flipped": flipped, "truncated": whole[:30], "empty": b""}[harm])
    damaged = path.read_bytes()
    with pytest.raises(DataLossError, match=r"catalog\.json .*rebuild --catalog"):
        DataFolder(data, lambda _line: None)
    assert path.read_bytes() == damaged


def test_a_catalog_of_a_newer_format_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both numbers, and untouched."""
    with monkeypatch.context() as patch:
        patch.setattr("clip_search_server.index.catalog_file.CATALOG_FORMAT_VERSION", 7)
        write_catalog(data / "catalog.json", CatalogContents())
    written = (data / "catalog.json").read_bytes()
    assert json.loads(written)["body"]["format_version"] == 7
    with pytest.raises(FailedPreconditionError, match="format 7, newer than the 1"):
        DataFolder(data, lambda _line: None)
    assert (data / "catalog.json").read_bytes() == written


def test_a_collection_of_another_space_is_refused(data: Path) -> None:
    """Both spaces are named, before anything is opened."""
    with DataFolder(data, lambda _line: None) as folder, pytest.raises(ClipSearchError, match="another"):
        folder.check_space("one", Space("another", DIM))
