"""Finds pictures in zip archives; nothing is ever unpacked onto the disk.

The names stand at the archive's end, so that they are known at once, and each picture is read by itself, when it is
wanted. What an archive claims is not trusted: a member is read up to the size that a picture may have, whatever it
would unpack to, and its bytes are checked against the archive's own sum (CRC-32), which also tells changed pictures
from unchanged ones.
"""

import contextlib
import functools
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from clip_search.contents import AttributeValue
from clip_search.indexing.found import FoundPicture, UnreadableError, Unusable
from clip_search.indexing.naming import is_picture_name, join_id, name_problem

__all__ = ["ZipSource"]

_ENCRYPTED = 0x1
# Of others, zipfile cannot unpack a bounded part.
_COMPRESSIONS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError)


@dataclass(slots=True)
class ZipSource:
    """One zip archive."""

    path: Path  # absolute
    _archive: zipfile.ZipFile | None = field(default=None, repr=False)
    _opening: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def name(self) -> str:
        """The archive's name, with its ending: beside `holiday.zip` there may be a folder `holiday`."""
        return self.path.name

    @property
    def origin(self) -> str:
        """The archive."""
        return str(self.path)

    @property
    def is_whole(self) -> bool:
        """Always."""
        return True

    def count(self) -> int | None:
        """Count the pictures by their names."""
        try:
            return len(self._members())
        except _DAMAGE:
            return None

    def pictures(self, bytes_max: int) -> Iterator[FoundPicture | Unusable]:
        """Find the pictures in the archive's order."""
        del bytes_max  # nothing is read here
        try:
            members = self._members()
        except _DAMAGE as error:
            yield Unusable(self.origin, f"cannot be read as a zip archive: {error}", hides_pictures=True)
            return
        for member in members:
            yield self._examine(member)

    def _members(self) -> list[zipfile.ZipInfo]:
        """Give the pictures; of several of one name the last, as whoever unpacked them would get."""
        with self._opening:
            if self._archive is None:
                self._archive = zipfile.ZipFile(self.path)
        members = {each.filename: each for each in self._archive.infolist()}
        return [each for each in members.values() if not each.is_dir() and _is_wanted(each.filename)]

    def _examine(self, member: zipfile.ZipInfo) -> FoundPicture | Unusable:
        name = member.filename
        place = f"{self.path}: {name}"
        problem = name_problem(name)
        if problem is not None:
            return Unusable(place, problem)
        picture_id = join_id(self.name, "/".join(part for part in name.split("/") if part not in {"", "."}))
        if member.flag_bits & _ENCRYPTED:
            return Unusable(place, "it is encrypted", picture_id)
        if member.compress_type not in _COMPRESSIONS:
            return Unusable(place, "it is compressed otherwise than with Deflate: pack the archive anew", picture_id)
        facts: dict[str, AttributeValue] = {
            "source": self.origin,
            "member": name,
            "file_name": name.rpartition("/")[2],
            "size_bytes": member.file_size,
            "crc32": member.CRC,
        }
        with contextlib.suppress(ValueError):  # archives may claim a month 0
            facts["modified"] = datetime(*member.date_time, tzinfo=UTC)
        read = functools.partial(self._read, member)
        return FoundPicture(picture_id, place, member.file_size, facts, read)

    def _read(self, member: zipfile.ZipInfo, bytes_max: int) -> bytes:
        archive = self._archive
        assert archive is not None, "a member was found in an archive that is not open. This is a bug."
        try:
            with archive.open(member) as file:
                return file.read(bytes_max + 1)
        except (*_DAMAGE, RuntimeError) as error:  # RuntimeError: zipfile's word for a password that is wanted
            raise UnreadableError(f"it cannot be unpacked: {error}") from error


def _is_wanted(name: str) -> bool:
    """Tell whether a member is a picture by its name, and neither hidden nor what macOS keeps beside one."""
    parts = name.split("/")
    hidden = any(part.startswith(".") and part not in {".", ".."} for part in parts)
    return is_picture_name(name) and not hidden and "__MACOSX" not in parts
