"""Finds pictures in folders and gives each the id it is stored under; reads no picture and knows nothing of servers.

An id is `SOURCE NAME/RELATIVE PATH` with forward slashes. The source of a folder is the folder itself, the source of a
single file is the folder it lies in: `index ~/photos` and `index ~/photos/cat.jpg` both give `photos/cat.jpg`. So ids
do not depend on the working folder, and indexing again replaces instead of adding. Names beginning with a dot are
passed over inside folders, and so are links to folders, which may lead in circles.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PICTURE_SUFFIXES", "FoundPicture", "Source", "SourceConflictError", "UnusablePath", "sources_of", "walk"]

# What a server reads, by the usual names. Of HEIC one that cannot says so, picture by picture.
PICTURE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True, slots=True)
class FoundPicture:
    """A picture file; its content is not looked at."""

    id: str
    path: Path  # absolute
    size_bytes: int


@dataclass(frozen=True, slots=True)
class UnusablePath:
    """A file or folder that cannot be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """Something to index: a folder with everything below it, or, with `file` set, one file of a folder."""

    folder: Path  # absolute, without `..`
    file: str | None = None

    @property
    def name(self) -> str:
        """What the ids begin with; empty for the root of the file system."""
        return self.folder.name


class SourceConflictError(ValueError):
    """Two sources would give the same ids to different pictures; the message says which and what to do."""


def sources_of(paths: Iterable[Path]) -> tuple[Source, ...]:
    """Give the sources of files and folders, each once, in their order.

    Raises:
        SourceConflictError: two different folders have the same name.
    """
    sources: dict[Source, None] = {}
    folders_by_name: dict[str, Path] = {}
    for path in paths:
        absolute = Path(os.path.abspath(path))  # noqa: PTH100  # unlike resolve(), it keeps the names as they were typed
        source = Source(absolute) if absolute.is_dir() else Source(absolute.parent, absolute.name)
        other = folders_by_name.setdefault(source.name, source.folder)
        if other != source.folder:
            raise SourceConflictError(
                f"{other} and {source.folder} have the same name, so that their pictures would share ids: "
                "rename one of them, or index a folder that holds both"
            )
        sources[source] = None
    return tuple(sources)


def walk(sources: Sequence[Source]) -> Iterator[FoundPicture | UnusablePath]:
    """Find the pictures of sources, in order of their names; what cannot be used is given too, with the reason."""
    for source in sources:
        if source.file is None:
            yield from _walk_folder(source)
        elif _is_picture_name(source.file):
            yield _examine(source, source.folder / source.file)
        else:
            known = " ".join(sorted(PICTURE_SUFFIXES))
            yield UnusablePath(source.folder / source.file, f"not a picture by its name (known endings: {known})")


def _walk_folder(source: Source) -> Iterator[FoundPicture | UnusablePath]:
    pending = [source.folder]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as scan:
                entries = sorted((entry for entry in scan if not entry.name.startswith(".")), key=_entry_name)
        except OSError as error:
            yield UnusablePath(folder, _reason(error))
            continue
        subfolders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        pending += reversed(subfolders)
        for entry in entries:
            if _is_picture_name(entry.name) and not entry.is_dir():
                yield _examine(source, Path(entry.path))


def _entry_name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _is_picture_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122  # a Path for each name costs too much


def _examine(source: Source, path: Path) -> FoundPicture | UnusablePath:
    try:
        status = path.stat()
    except OSError as error:
        return UnusablePath(path, _reason(error))
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        return UnusablePath(path, "not a regular file")
    relative = path.relative_to(source.folder).as_posix()
    picture_id = f"{source.name}/{relative}" if source.name else relative
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return UnusablePath(path, "its name is not valid UTF-8: rename it")
    return FoundPicture(picture_id, path, status.st_size)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
