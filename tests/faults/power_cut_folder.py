"""The life of a data folder on a recorded disk, and what must be true of what a power cut leaves of it.

Collections come and go, aliases move, items are written, backups are made and restored; whatever was acknowledged has
its place among the recorded changes. Knows nothing of how changes are recorded or lost. On the disk:

    data        the data folder
    backups     its backups, the two newest kept
    copy-N      the N-th restoration
"""

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from clip_search_server.index import Collection, DataFolder, Record
from clip_search_server.index.backup import back_up, backups_in
from clip_search_server.index.catalog_file import CatalogContents
from clip_search_server.index.restore import read_backup, restore
from tests.faults import power_cuts
from tests.faults.catalog_victim import Change as CatalogChange
from tests.faults.catalog_victim import changes
from tests.faults.index_checks import assert_memory_equals_store
from tests.faults.index_history import SETTINGS, VECTORS
from tests.faults.power_cut_disk import Change, Cut, Renamed
from tests.faults.power_cut_layer import recording
from tests.unit.index.support import silent

_CHANGES = 6  # of the catalog, a session
_ITEMS = 9  # a write
_KEEP = 2


@dataclass(frozen=True, slots=True)
class Data:
    """What a data folder holds: its catalog, and the ids in each collection."""

    contents: CatalogContents = field(default_factory=CatalogContents)
    ids: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Told:
    """All that was acknowledged when there were so many changes: backups by their number, copies by their name."""

    position: int = 0
    data: Data = field(default_factory=Data)
    backups: Mapping[int, Data] = field(default_factory=dict)
    copies: Mapping[str, Data] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FolderHistory:
    """What happened, in order; the first of `told` is from before everything."""

    changes: Sequence[Change]
    told: Sequence[Told]


def recorded_folder(root: Path, monkeypatch: pytest.MonkeyPatch, sessions: int) -> FolderHistory:
    """Let a data folder live on the new folder `root`: each session changes it, backs it up and may restore a copy."""
    root.mkdir()
    told = [Told()]
    with recording(root, monkeypatch) as recorder:
        for session in range(sessions):
            told.extend(replace(step, position=recorder.position) for step in _session(root, session, told[-1]))
    return FolderHistory(recorder.changes, told)


def _session(root: Path, number: int, told: Told) -> Iterator[Told]:
    chance = random.Random(number)
    with DataFolder(root / "data", silent) as folder:
        folder.note_findings()
        for change in itertools.islice(changes(number, folder.contents), _CHANGES):
            told = _changed(folder, told, change)
            yield told
            if folder.contents.collections and chance.random() < 0.5:
                name = chance.choice(sorted(folder.contents.collections))
                told = _written(folder, told, name, f"session {number} state {told.position}")
                yield told
    made = back_up(root / "data", root / "backups", report=silent, keep=_KEEP)
    told = replace(told, backups={**told.backups, _number_of(made.path): told.data})
    yield told
    if number % 2:
        copy = f"copy-{number}"
        restore(root / "backups", root / copy, report=silent)
        yield replace(told, copies={**told.copies, copy: told.data})


def _changed(folder: DataFolder, told: Told, change: CatalogChange) -> Told:
    make, after = change
    make(folder)
    ids = {name: told.data.ids.get(name, frozenset()) for name in after.collections}
    return replace(told, data=Data(after, ids))


def _written(folder: DataFolder, told: Told, name: str, mark: str) -> Told:
    collection = Collection.open_existing(folder.folder_of(name), settings=SETTINGS)
    try:
        ids = [f"{mark} item {at}" for at in range(_ITEMS)]
        collection.upsert([Record(item_id, VECTORS[at]) for at, item_id in enumerate(ids)])
        collection.snapshot()
    finally:
        collection.close()
    return replace(told, data=replace(told.data, ids={**told.data.ids, name: told.data.ids[name] | set(ids)}))


def _number_of(backup: Path) -> int:
    return int(backup.name.partition("-")[0])


def telling(history: FolderHistory, count: int) -> list[int]:
    """Return points where a missing sync would hurt: about so many answers, and moments after a name was given."""
    points = {told.position for told in history.told}
    named = {at + 1: change.target for at, change in enumerate(history.changes) if isinstance(change, Renamed)}
    some = random.Random(count).sample(sorted(points | named.keys()), min(count, len(points | named.keys())))
    # Few folders are published whole, so each of them more than once, with another cut each time.
    whole = [at for at, path in named.items() if not path.suffix and not path.name.startswith(".")]
    return sorted([*some, *4 * whole])


def violations(history: FolderHistory, points: Iterable[int], cuts: Sequence[Cut], folder: Path) -> list[str]:
    """Cut the power at these points and return in words all that is then wrong; see `power_cuts.violations`."""
    return power_cuts.violations(
        history.changes, points, cuts, folder, lambda remains, point: check(remains, history, point)
    )


def check(remains: Path, history: FolderHistory, point: int) -> None:
    """Look at what is left after `point` changes: all that was acknowledged by then, or one step more."""
    at = max(at for at, told in enumerate(history.told) if told.position <= point)
    now, soon = history.told[at], history.told[min(at + 1, len(history.told) - 1)]
    _check_copies(remains, now, soon)
    _check_backups(remains, now, soon)
    found = read_data(remains / "data")
    assert found in {"now": now.data, "soon": soon.data}.values(), "the data folder is not what was acknowledged"
    made = back_up(remains / "data", remains / "backups", report=silent, keep=_KEEP)
    assert not list((remains / "backups").glob(".partial-*"))
    read_backup(made.path)


def _check_copies(remains: Path, now: Told, soon: Told) -> None:
    for name, data in soon.copies.items():
        if name in now.copies or (remains / name).exists():
            assert read_data(remains / name) == data, f"{name} is not what was restored"


def _check_backups(remains: Path, now: Told, soon: Told) -> None:
    """Whatever is named like a backup is whole, the newest that was acknowledged is there, and it can be restored."""
    folder = remains / "backups"
    found = {_number_of(path): path for path in folder.glob("0*")} if folder.exists() else {}
    assert sorted(found.values()) == (backups_in(folder) if found else [])
    assert found.keys() <= soon.backups.keys()
    for path in found.values():
        read_backup(path)
    assert not now.backups or max(now.backups) in found, "an acknowledged backup is gone"
    if found:
        newest = max(found)
        restore(found[newest], remains / "restored", report=silent)
        assert read_data(remains / "restored") == soon.backups[newest], "the newest backup is not what was backed up"


def read_data(path: Path) -> Data:
    """Open a data folder and all that is in it, as a server would, and return what it holds."""
    with DataFolder(path, silent) as folder:
        folder.note_findings()
        contents = folder.contents
        ids = {name: _ids_of(folder.folder_of(name)) for name in contents.collections}
    assert {entry.name for entry in (path / "collections").iterdir()} == set(contents.collections)
    assert not list(path.glob("*.tmp"))
    return Data(contents, ids)


def _ids_of(folder: Path) -> frozenset[str]:
    collection = Collection.open_existing(folder, settings=SETTINGS)
    try:
        assert collection.stats().damage == ()
        assert_memory_equals_store(collection)
        return frozenset(item.id for item in collection.list_items(limit=1000))
    finally:
        collection.close()
