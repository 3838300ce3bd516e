"""Records, in order, all that this process does to the files below a folder; knows nothing of what is lost when.

SQLite's files are recorded by a VFS that lies *below* its checksum VFS, so pages are recorded with their checksums. For
everything else the calls of `os` that name, remove and sync files are wrapped. What is written into such a file, by
Python or by an engine's own code, is noticed at the next of these calls that concerns it: until then nobody could rely
on it anyway. Syncs are recorded and not done, since nothing real depends on them.

Two things happen inside SQLite's own VFS, unseen from above, and are recorded as its source (`os_unix.c`) does them:
the first sync of a new journal or log also syncs its folder, and so does a deletion that asks for it. The index of the
log (`-shm`) is shared memory, left to SQLite's own VFS, and not there any more after a power cut.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import apsw
import pytest

from clip_search_server.index import page_checksums
from tests.faults.power_cut_disk import (
    Change,
    Disk,
    FileMade,
    FolderMade,
    Removed,
    Renamed,
    Synced,
    Truncated,
    Written,
)

_VFS = "recording"
_JOURNALS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL


class Recorder:
    """The changes below `root` so far; safe from any thread.

    Attributes:
        changes: all of them, oldest first.
    """

    def __init__(self, root: Path, earlier: Sequence[Change] = ()) -> None:
        self.root = root
        self.changes = list(earlier)
        # Held while a change is made and noted, so that the order of the notes is the order of the changes.
        self.lock = threading.RLock()
        self._disk = Disk()
        for change in earlier:
            self._disk.apply(change)

    @property
    def position(self) -> int:
        """How many changes there are: what happens from now on comes after them."""
        with self.lock:
            return len(self.changes)

    def place_of(self, path: str | os.PathLike[str]) -> PurePosixPath | None:
        """Return where a path lies below the root, None where it lies elsewhere."""
        try:
            return PurePosixPath(Path(path).absolute().relative_to(self.root))
        except ValueError:
            return None

    def note(self, change: Change) -> None:
        """Add a change that has just been made."""
        self.changes.append(change)
        self._disk.apply(change)

    def look_at(self, place: PurePosixPath) -> None:
        """Note what has been written into a file since it was last looked at, and that it is there."""
        path = self.root / place
        if not path.is_file():
            return
        content, noted = path.read_bytes(), self._disk.content(place)
        if noted is None:
            self.note(FileMade(place))
        if content != (noted or b""):
            if noted:
                self.note(Truncated(place, 0))
            self.note(Written(place, 0, content))

    def look_below(self, place: PurePosixPath) -> None:
        """Look at a file, or at all files below a folder."""
        self.look_at(place)
        for path in sorted((self.root / place).rglob("*")):
            if _is_kept(path.name):
                self.look_at(place / path.relative_to(self.root / place))

    def missed(self) -> set[PurePosixPath]:
        """Return the files, but for locks and shared memory, that differ from what the notes make of them."""
        real = {PurePosixPath(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}
        both = {place for place in real | self._disk.paths() if _is_kept(place.name)}
        return {
            place
            for place in both
            if place not in real or (self.root / place).read_bytes() != self._disk.content(place)
        }


def _is_kept(name: str) -> bool:
    """Return whether what is in a file of this name matters: not so locks and shared memory."""
    return name != "lock" and not name.endswith("-shm")


class _RecordedFile(apsw.VFSFile):
    """One of SQLite's files below the root."""

    def __init__(self, recorder: Recorder, place: PurePosixPath, base: str, name: Any, flags: list[int]) -> None:
        self._recorder = recorder
        self._place = place
        self._syncs_folder = bool(flags[0] & apsw.SQLITE_OPEN_CREATE) and bool(flags[0] & _JOURNALS)
        super().__init__(base, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        with self._recorder.lock:
            super().xWrite(data, offset)
            self._recorder.note(Written(self._place, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        with self._recorder.lock:
            super().xTruncate(newsize)
            self._recorder.note(Truncated(self._place, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        with self._recorder.lock:
            self._recorder.note(Synced(self._place))
            if self._syncs_folder:
                self._recorder.note(Synced(self._place.parent))
                self._syncs_folder = False


class _RecordingVfs(apsw.VFS):
    def __init__(self, recorder: Recorder, base: str) -> None:
        self._recorder = recorder
        self._base = base
        super().__init__(_VFS, base, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        text = name.filename() if isinstance(name, apsw.URIFilename) else name
        place = None if text is None else self._recorder.place_of(text)
        if text is None or place is None:
            return apsw.VFSFile(self._base, name, flags)
        with self._recorder.lock:
            is_new = not Path(text).exists()
            file = _RecordedFile(self._recorder, place, self._base, name, flags)
            if is_new:
                self._recorder.note(FileMade(place))
            return file

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        place = self._recorder.place_of(filename)
        with self._recorder.lock:
            super().xDelete(filename, syncdir)
            if place is not None:
                self._recorder.note(Removed(place))
                if syncdir:
                    self._recorder.note(Synced(place.parent))


@contextlib.contextmanager
def recording(root: Path, monkeypatch: pytest.MonkeyPatch, earlier: Sequence[Change] = ()) -> Iterator[Recorder]:
    """Record what is done below `root`; collections in it must be closed before the block ends.

    Args:
        root: an empty folder, or one that holds all that the earlier changes made.
        monkeypatch: wraps the calls of `os` meanwhile.
        earlier: what a process did that was killed: the kernel has all of it, the disk what was synced.
    """
    recorder = Recorder(root.absolute(), earlier)
    with monkeypatch.context() as patch, _recorded_sqlite(recorder):
        _record_os(recorder, patch)
        yield recorder
    missed = recorder.missed()
    assert not missed, f"changes of {sorted(map(str, missed))} were not recorded. This is a bug."


@contextlib.contextmanager
def _recorded_sqlite(recorder: Recorder) -> Iterator[None]:
    base = apsw.vfs_names()[0]
    _unload_checksums()
    vfs = _RecordingVfs(recorder, base)
    try:
        page_checksums.available()  # The checksum VFS goes on top of whatever is the default when it is loaded.
        yield
    finally:
        _unload_checksums()
        apsw.set_default_vfs(base)
        vfs.unregister()


def _unload_checksums() -> None:
    page_checksums.available.cache_clear()
    if page_checksums._VFS in apsw.vfs_names():
        apsw.unregister_vfs(page_checksums._VFS)


def _record_os(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    real_open = os.open
    opened: dict[int, PurePosixPath | None] = {}  # None: elsewhere

    def place_of(path: Any, folder: int | None) -> PurePosixPath | None:
        if folder is None:
            return recorder.place_of(path) if isinstance(path, str | os.PathLike) else None
        parent = opened[folder]
        return None if parent is None else parent / os.fspath(path)

    def open_(path: Any, flags: int, *args: Any, dir_fd: int | None = None, **kwargs: Any) -> int:
        with recorder.lock:
            place = place_of(path, dir_fd)
            descriptor = real_open(path, flags, *args, dir_fd=dir_fd, **kwargs)
            opened[descriptor] = place
            if place is not None:
                recorder.look_at(place)
            return descriptor

    def fsync(descriptor: int) -> None:
        with recorder.lock:
            # Opened in another way than by `os.open`, it could not be told which file it is.
            place = opened[descriptor]
            if place is not None:
                recorder.look_at(place)
                recorder.note(Synced(place))

    patch.setattr(os, "open", open_)
    patch.setattr(os, "fsync", fsync)
    for name, kind in (("mkdir", FolderMade), ("unlink", Removed), ("rmdir", Removed)):
        patch.setattr(os, name, _recorded_call(recorder, place_of, getattr(os, name), kind))
    for name in ("rename", "replace"):
        patch.setattr(os, name, _recorded_call(recorder, place_of, getattr(os, name), Renamed))


def _recorded_call(
    recorder: Recorder,
    place_of: Callable[[Any, int | None], PurePosixPath | None],
    real: Callable[..., None],
    kind: Callable[..., Change],
) -> Callable[..., None]:
    def call(*paths: Any, **kwargs: Any) -> None:
        count = 2 if kind is Renamed else 1
        with recorder.lock:
            places = [place_of(path, kwargs.get("dir_fd")) for path in paths[:count]]
            if places[0] is not None and kind is Renamed:
                recorder.look_below(places[0])
            elif places[0] is not None and kind is Removed:
                recorder.look_at(places[0])
            real(*paths, **kwargs)
            if places[0] is not None:
                recorder.note(kind(*places))

    return call
