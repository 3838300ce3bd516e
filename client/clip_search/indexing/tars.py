"""Finds pictures in tar archives, compressed or not; nothing is ever unpacked onto the disk.

An archive that is not compressed is passed over from header to header, and pictures are read by their place when they
are wanted. A compressed one can only be read from its beginning, so its pictures are read as they are passed, and held
until it is known whether they are wanted. Neither is ever in memory as a whole.

What an archive claims is not trusted. Links, devices and sparse files are not followed; what tarfile reads at once (a
long name, say) is bounded; and an archive that unpacks to far more than pictures ever do is not read further.
"""

import bz2
import functools
import gzip
import lzma
import math
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from clip_search.contents import AttributeValue
from clip_search.indexing.found import FoundPicture, UnreadableError, Unusable
from clip_search.indexing.naming import instant_of_ns, is_picture_name, join_id, name_problem

__all__ = ["TAR_SUFFIXES", "TarSource"]

_COMPRESSIONS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "gz": lambda file: cast("IO[bytes]", gzip.GzipFile(fileobj=file)),
    "bz2": lambda file: cast("IO[bytes]", bz2.BZ2File(file)),
    "xz": lambda file: cast("IO[bytes]", lzma.LZMAFile(file)),  # noqa: SIM115  # the caller closes it
}

#: Endings of names, and what is known by them.
TAR_SUFFIXES = {
    ".tar": "",
    ".tar.gz": "gz",
    ".tgz": "gz",
    ".tar.bz2": "bz2",
    ".tbz2": "bz2",
    ".tar.xz": "xz",
    ".txz": "xz",
}

# Pictures are compressed already: an archive of them unpacks to about its own size. A few blank ones may do better.
_RATIO_MAX = 200
_UNPACKED_BYTES_MIN = 1 << 30

_BLOCK_BYTES = 512
_CHUNK_BYTES = 1 << 20
_READ_BYTES_MAX = 8 << 20  # of what tarfile asks for at once: headers, and names within them
_DAMAGE = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RecursionError)


class _TooMuchError(OSError):
    """An archive unpacks to more, or asks for more at once, than archives of pictures do."""


@dataclass(frozen=True, slots=True)
class TarSource:
    """One tar archive.

    Args:
        path: absolute.
        compression: a key of `_COMPRESSIONS`, or empty.
    """

    path: Path
    compression: str = ""

    @property
    def name(self) -> str:
        """The archive's name, with its ending: beside `holiday.tar` there may be a folder `holiday`."""
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
        """Count the pictures by their names; None for a compressed archive, which would have to be unpacked for it."""
        if self.compression:
            return None
        try:
            with self._open() as stream:
                return sum(1 for member in _members(stream) if _is_wanted(member))
        except _DAMAGE:
            return None

    def pictures(self, bytes_max: int) -> Iterator[FoundPicture | Unusable]:
        """Find the pictures in the archive's order; those of a compressed one are read on the way."""
        try:
            with self._open() as stream:
                for member in _members(stream):
                    if _is_wanted(member):
                        yield self._examine(member, stream, bytes_max)
        except _DAMAGE as error:
            reason = str(error) or type(error).__name__
            yield Unusable(self.origin, f"cannot be read further as a tar archive: {reason}", hides_pictures=True)

    @contextmanager
    def _open(self) -> Iterator["_Stream"]:
        with self.path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if not self.compression:
                yield _Stream(file, size_bytes + 1, is_compressed=False)
                return
            with _COMPRESSIONS[self.compression](file) as unpacked:
                yield _Stream(unpacked, max(size_bytes * _RATIO_MAX, _UNPACKED_BYTES_MIN), is_compressed=True)

    def _examine(self, member: tarfile.TarInfo, stream: "_Stream", bytes_max: int) -> FoundPicture | Unusable:
        place = f"{self.path}: {member.name}"
        problem = name_problem(member.name)
        if problem is not None:
            return Unusable(place, problem)
        relative = "/".join(part for part in member.name.split("/") if part not in {"", "."})
        picture_id = join_id(self.name, relative)
        problem = _kind_problem(member)
        if problem is not None:
            return Unusable(place, problem, picture_id)
        facts: dict[str, AttributeValue] = {
            "source": self.origin,
            "member": member.name,
            "file_name": relative.rpartition("/")[2],
            "size_bytes": member.size,
        }
        # Archives made to be reproducible carry no times: then a new archive means new pictures.
        dated = math.isfinite(member.mtime) and member.mtime > 0
        modified = instant_of_ns(int(member.mtime * 1e9) if dated else self.path.stat().st_mtime_ns)
        if modified is not None:
            facts["modified"] = modified
        if not stream.is_compressed or member.size > bytes_max:
            read = functools.partial(self._read, member.offset_data, member.size)
            return FoundPicture(picture_id, place, member.size, facts, read)
        data = stream.read_at(member.offset_data, member.size)
        return FoundPicture(picture_id, place, member.size, facts, lambda _: data, held_bytes=len(data))

    def _read(self, offset: int, size: int, bytes_max: int) -> bytes:
        try:
            with self.path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), min(size, bytes_max + 1), offset)
        except OSError as error:
            raise UnreadableError(error.strerror or str(error)) from error
        if len(data) < min(size, bytes_max + 1):
            raise UnreadableError("the archive ends within it")
        return data


class _Stream:
    """What tarfile reads from: goes forwards only, and counts.

    Args:
        file: the archive's bytes, unpacked.
        bytes_max: how many of them there may be.
        is_compressed: whether passing over bytes means unpacking them.
    """

    def __init__(self, file: IO[bytes], bytes_max: int, *, is_compressed: bool) -> None:
        self.is_compressed = is_compressed
        self._file = file
        self._bytes_max = bytes_max
        self._position = 0
        self._newest = b""

    def tell(self) -> int:
        """Give the position among the unpacked bytes."""
        return self._position

    def read(self, size: int) -> bytes:
        """Read what tarfile asks for."""
        if size > _READ_BYTES_MAX:
            raise _TooMuchError(f"a header of {size:,} bytes")
        return self._read(size)

    def seek(self, position: int) -> None:
        """Go forwards."""
        if position < self._position:
            raise tarfile.ReadError("it leads backwards")
        self._check(position)
        if not self.is_compressed:
            self._file.seek(position)
            self._position = position
        while self._position < position:
            if not self._read(min(_CHUNK_BYTES, position - self._position)):
                return  # tarfile finds that the end came early

    def read_at(self, position: int, size: int) -> bytes:
        """Read a member's bytes; the caller has looked at its size."""
        self.seek(position)
        data = self._read(size)
        if len(data) < size:
            raise tarfile.ReadError("unexpected end of data")
        return data

    def check_end(self) -> None:
        """Look whether what was read last is how archives end: tarfile takes damage for the end.

        Raises:
            tarfile.ReadError: it is damage.
        """
        if any(self._newest):
            raise tarfile.ReadError("damage where the next header should be")

    def _read(self, size: int) -> bytes:
        if size < 0:  # to a file that would mean everything
            raise tarfile.ReadError("a negative size")
        self._check(self._position + size)
        data = self._file.read(size)
        self._position += len(data)
        self._newest = data[:_BLOCK_BYTES]
        return data

    def _check(self, position: int) -> None:
        if self.is_compressed and position > self._bytes_max:
            raise _TooMuchError(
                f"it unpacks to more than {_RATIO_MAX} times its size, which archives of pictures do not"
            )


def _members(stream: _Stream) -> Iterator[tarfile.TarInfo]:
    """Give one member after the other; tarfile would keep all of them."""
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # not among the stubs
            yield member
        stream.check_end()


def _is_wanted(member: tarfile.TarInfo) -> bool:
    """Tell whether a member is a picture by its name, and not hidden."""
    hidden = any(part.startswith(".") and part not in {".", ".."} for part in member.name.split("/"))
    return not member.isdir() and is_picture_name(member.name) and not hidden


def _kind_problem(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return "it is a link, which is not followed inside archives"
    if not member.isreg() or member.issparse():
        return "not a regular file"
    return None
