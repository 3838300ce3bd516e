"""A disk with a cache that a power cut empties; knows nothing of SQLite, collections or real files being written.

It is fed the changes of a folder in the order in which they happened and keeps, beside what programs see, what has
been forced to the disk: a file's bytes by a sync of that file, the names in a folder by a sync of that folder, and
neither by the other. At any moment `write_to` makes a real folder of what a power cut would leave: all that was synced
and, of the rest, as much as a `Cut` says.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class FileMade:
    """An empty file got a name."""

    path: PurePosixPath


@dataclass(frozen=True, slots=True)
class FolderMade:
    """A folder got a name."""

    path: PurePosixPath


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes were written into a file."""

    path: PurePosixPath
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncated:
    """A file got this size."""

    path: PurePosixPath
    size: int


@dataclass(frozen=True, slots=True)
class Renamed:
    """A file or folder changed its name within its folder, in the place of any other of that name."""

    path: PurePosixPath
    target: PurePosixPath


@dataclass(frozen=True, slots=True)
class Removed:
    """A name was taken away."""

    path: PurePosixPath


@dataclass(frozen=True, slots=True)
class Synced:
    """A file's bytes, or a folder's names, were forced to the disk."""

    path: PurePosixPath


Change = FileMade | FolderMade | Written | Truncated | Renamed | Removed | Synced


@dataclass(frozen=True, slots=True)
class Cut:
    """What a power cut leaves of what was not synced.

    Attributes:
        data: of the bytes: nothing; everything; each sector by chance; or everything but the end of the last write,
            which is torn at a sector.
        names: of the names: none of the changes, all, or each by chance.
    """

    data: Literal["none", "all", "sectors", "torn"]
    names: Literal["none", "all", "some"]


CUTS = (
    Cut("none", "none"),
    Cut("none", "all"),
    Cut("none", "some"),
    Cut("all", "none"),
    Cut("all", "all"),
    Cut("sectors", "all"),
    Cut("sectors", "some"),
    Cut("torn", "all"),
    Cut("torn", "some"),
)


@dataclass(slots=True, eq=False)
class _File:
    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    unsynced: list[Written | Truncated] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Folder:
    names: dict[str, "_Node"] = field(default_factory=dict)
    synced: dict[str, "_Node"] = field(default_factory=dict)
    unsynced: list[dict[str, "_Node | None"]] = field(default_factory=list)  # None: the name goes

    def change(self, names: dict[str, "_Node | None"]) -> None:
        self.unsynced.append(names)
        _rename(self.names, names)


_Node = _File | _Folder


class Disk:
    """The state after the changes that were applied so far; paths are relative to a folder that is there for ever."""

    def __init__(self) -> None:
        self._root = _Folder()

    def apply(self, change: Change) -> None:
        """Let one change happen."""
        parent, name = self._folder(change.path.parent), change.path.name
        match change:
            case FileMade():
                parent.change({name: _File()})
            case FolderMade():
                parent.change({name: _Folder()})
            case Removed():
                parent.change({name: None})
            case Renamed(path, target):
                if target.parent != path.parent:
                    raise NotImplementedError(f"{path} is renamed into another folder, which this disk cannot do")
                parent.change({name: None, target.name: parent.names[name]})
            case Written() | Truncated():
                file = self._file(change.path)
                file.unsynced.append(change)
                _write(file.content, change)
            case Synced():
                _sync(self._node(change.path))

    def content(self, path: PurePosixPath) -> bytes | None:
        """Return what programs see in a file, None where there is none."""
        try:
            return bytes(self._file(path).content)
        except KeyError:
            return None

    def paths(self) -> set[PurePosixPath]:
        """Return the files that programs see."""
        return set(_files_below(self._root, PurePosixPath()))

    def write_to(self, target: Path, cut: Cut, chance: random.Random) -> None:
        """Make the folder `target` of what is left after a power cut now."""
        _write_folder(self._root, target, cut, chance)

    def _node(self, path: PurePosixPath) -> _Node:
        node: _Node = self._root
        for part in path.parts:
            assert isinstance(node, _Folder), f"{path} lies in a file. This is a bug."
            node = node.names[part]
        return node

    def _folder(self, path: PurePosixPath) -> _Folder:
        node = self._node(path)
        assert isinstance(node, _Folder), f"{path} is a file. This is a bug."
        return node

    def _file(self, path: PurePosixPath) -> _File:
        node = self._node(path)
        assert isinstance(node, _File), f"{path} is a folder. This is a bug."
        return node


def _rename(names: dict[str, _Node], change: dict[str, _Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _write(content: bytearray, change: Written | Truncated) -> None:
    match change:
        case Written(_, offset, data):
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
        case Truncated(_, size):
            content.extend(bytes(max(0, size - len(content))))
            del content[size:]


def _sync(node: _Node) -> None:
    if isinstance(node, _File):
        node.synced = bytes(node.content)
    else:
        node.synced = dict(node.names)
    node.unsynced.clear()


def _files_below(folder: _Folder, path: PurePosixPath) -> list[PurePosixPath]:
    found = []
    for name, node in folder.names.items():
        found += [path / name] if isinstance(node, _File) else _files_below(node, path / name)
    return found


def _write_folder(folder: _Folder, target: Path, cut: Cut, chance: random.Random) -> None:
    target.mkdir()
    names = dict(folder.synced)
    for change in folder.unsynced:
        if cut.names == "all" or (cut.names == "some" and chance.random() < 0.5):
            _rename(names, change)
    for name, node in names.items():
        if isinstance(node, _File):
            (target / name).write_bytes(_left_of(node, cut, chance))
        else:
            _write_folder(node, target / name, cut, chance)


def _left_of(file: _File, cut: Cut, chance: random.Random) -> bytearray:
    content = bytearray(file.synced)
    for change in _kept(file.unsynced, cut, chance):
        _write(content, change)
    return content


def _kept(changes: Sequence[Written | Truncated], cut: Cut, chance: random.Random) -> list[Written | Truncated]:
    if cut.data == "none" or not changes:
        return []
    if cut.data == "all":
        return list(changes)
    if cut.data == "sectors":
        sectors = [sector for change in changes for sector in _sectors(change)]
        return [sector for sector in sectors if chance.random() < 0.5]
    torn = _sectors(changes[-1])
    return [*changes[:-1], *torn[: chance.randrange(len(torn) + 1)]]


def _sectors(change: Written | Truncated) -> list[Written | Truncated]:
    """Cut a write where sectors of the disk end."""
    if isinstance(change, Truncated):
        return [change]
    end = change.offset + len(change.data)
    starts = [change.offset, *range((change.offset // SECTOR_BYTES + 1) * SECTOR_BYTES, end, SECTOR_BYTES)]
    pieces = zip(starts, [*starts[1:], end], strict=True)
    return [
        Written(change.path, start, change.data[start - change.offset : stop - change.offset]) for start, stop in pieces
    ]
