"""Finds pictures in folders and gives each the id it is stored under; reads no picture and knows nothing of servers.

An id is `SOURCE NAME/RELATIVE PATH` with forward slashes. The source of a folder is the folder itself, the source of a
single file is the folder it lies in: `index ~/photos` and `index ~/photos/cat.jpg` both give `photos/cat.jpg`. So ids
do not depend on the working folder, and indexing again replaces instead of adding. Names beginning with a dot are
passed over inside folders, and so are links to folders, which may lead in circles.
"""

import functools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clip_search.contents import AttributeValue
from clip_search.indexing.found import FoundPicture, UnreadableError, Unusable
from clip_search.indexing.naming import NOT_UTF8, PICTURE_SUFFIXES, instant_of_ns, is_picture_name, join_id

__all__ = ["FolderSource", "examine_file"]


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder with everything below it, or, with `file` set, one file of a folder."""

    folder: Path  # absolute, without `..`
    file: str | None = None

    @property
    def name(self) -> str:
        """What the ids begin with; empty for the root of the file system."""
        return self.folder.name

    @property
    def origin(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def is_whole(self) -> bool:
        """Whether it is the folder, and not one file of it."""
        return self.file is None

    def count(self) -> int:
        """Count the names of pictures; nothing is said of what cannot be read."""
        if self.file is not None:
            return 1
        return sum(1 for each in self._entries() if not isinstance(each, Unusable))

    def pictures(self, bytes_max: int) -> Iterator[FoundPicture | Unusable]:
        """Find the pictures, in order of their names; what cannot be used is given too, with the reason."""
        del bytes_max  # nothing is read here
        if self.file is None:
            for entry in self._entries():
                yield entry if isinstance(entry, Unusable) else self._examine(entry)
        elif is_picture_name(self.file):
            yield self._examine(str(self.folder / self.file))
        else:
            known = " ".join(sorted(PICTURE_SUFFIXES))
            yield Unusable(
                str(self.folder / self.file),
                f"not a picture by its name, nor an archive or a list (endings of pictures: {known})",
            )

    def _entries(self) -> Iterator[str | Unusable]:
        """Give the path of each file that is a picture by its name."""
        pending = [str(self.folder)]
        while pending:
            folder = pending.pop()
            try:
                with os.scandir(folder) as scan:
                    entries = sorted((entry for entry in scan if not entry.name.startswith(".")), key=_entry_name)
            except OSError as error:
                yield Unusable(folder, error.strerror or str(error), hides_pictures=True)
                continue
            pending += [entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]
            for entry in entries:
                if is_picture_name(entry.name) and not entry.is_dir():
                    yield entry.path

    def _examine(self, path: str) -> FoundPicture | Unusable:
        relative = path[len(str(self.folder)) :].lstrip("/")
        return examine_file(path, join_id(self.name, relative), {"source": self.origin})


def _entry_name(entry: os.DirEntry[str]) -> str:
    return entry.name


def examine_file(
    path: str, picture_id: str, facts: dict[str, AttributeValue], text: str | None = None
) -> FoundPicture | Unusable:
    """Give a file as a picture, unless it cannot be one; only its name, size and time are looked at.

    Args:
        path: absolute.
        picture_id: its id.
        facts: what else is known of it.
        text: words that belong to it.
    """
    try:
        picture_id.encode()
        path.encode()
    except UnicodeEncodeError:
        return Unusable(path, NOT_UTF8)
    try:
        status = os.stat(path)  # noqa: PTH116  # a Path for each name costs too much
    except (OSError, ValueError) as error:
        return Unusable(path, _reason(error), id=picture_id)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        return Unusable(path, "not a regular file", id=picture_id)
    own: dict[str, AttributeValue] = {
        "path": path,
        "file_name": path.rpartition("/")[2],
        "size_bytes": status.st_size,
    }
    modified = instant_of_ns(status.st_mtime_ns)
    if modified is not None:
        own["modified"] = modified
    read = functools.partial(_read, path, status.st_size)
    return FoundPicture(picture_id, path, status.st_size, {**facts, **own}, read, text)


def _read(path: str, size_bytes: int, bytes_max: int) -> bytes:
    """Read a file to its end, or until it is larger than it may be: it may have grown since it was found."""
    pieces: list[bytes] = []
    left_bytes = bytes_max + 1
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # a Path for each name costs too much
            while left_bytes > 0 and (piece := file.read(min(size_bytes + 1, left_bytes))):
                pieces.append(piece)
                left_bytes -= len(piece)
    except OSError as error:
        raise UnreadableError(_reason(error)) from error
    return b"".join(pieces)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
