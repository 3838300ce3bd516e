"""Connections to SQLite files whose every page carries a checksum; knows nothing of tables.

SQLite's own extension `cksumvfs` (https://sqlite.org/cksumvfs.html), which the wheels of apsw bring along, keeps 8
bytes at the end of each page: written with the page, compared whenever SQLite reads it, in the main file and in the
log. It covers what the CRCs of our rows cannot: the pages of indexes, the inner pages of trees, and the schema. Whether
a file has such pages is told by byte 20 of its header, the number of reserved bytes.

A page holds many rows, so one wrong byte would take its neighbours along. Where rows are found by their label and carry
a CRC that covers the label, the page may therefore be read unchecked: a row that is wrong or missing still shows.

Where apsw comes without the extension, new stores do without page checksums, and stores that have them are refused:
pages written without the extension would fail their check ever after.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import apsw
import apsw.sqlite_extra

from clip_search_server.errors import FailedPreconditionError

RESERVED_BYTES = 8

_VFS = "cksmvfs"
_EXTENSION = "cksumvfs"
_RESERVED_AT = 20
_READ_WRITE = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE


@functools.cache
def available() -> bool:
    """Return whether this apsw brings the extension; loads it the first time."""
    before = apsw.vfs_names()
    try:
        connection = apsw.Connection(":memory:")
        try:
            apsw.sqlite_extra.load(connection, _EXTENSION)
        finally:
            connection.close()
    except (apsw.Error, LookupError, OSError, apsw.sqlite_extra.NotAvailable):
        return False
    apsw.set_default_vfs(before[0])  # It makes itself the default; it is for our own stores alone.
    return _VFS in apsw.vfs_names()


def connect(path: Path | str, *, flags: int = _READ_WRITE) -> apsw.Connection:
    """Open a connection that checks and writes page checksums where the file has them.

    Raises:
        apsw.Error: SQLite refused.
    """
    return apsw.Connection(str(path), flags=flags, vfs=_VFS if available() else None)


def add_to_new_file(connection: apsw.Connection) -> None:
    """Make room for the checksums in a file that has no pages yet."""
    if available():
        connection.reserve_bytes("main", RESERVED_BYTES)


def has_checksums(path: Path) -> bool:
    """Return whether the pages of a store carry checksums."""
    with path.open("rb") as stream:
        return stream.read(_RESERVED_AT + 1)[_RESERVED_AT:] == bytes([RESERVED_BYTES])


def damaged_pages(connection: apsw.Connection, path: Path) -> list[int]:
    """Return the numbers, from 1, of the pages of the main file that fail their checksum; `connection` only computes.

    A page that fails may have a newer copy in the log.
    """
    found = []
    with path.open("rb") as stream:
        page_bytes = _page_bytes(stream)
        stream.seek(0)
        number = 0
        while page := stream.read(page_bytes):
            number += 1
            if not _passes(connection, page, page_bytes):
                found.append(number)
    return found


def is_intact(connection: apsw.Connection, path: Path, number: int) -> bool:
    """Return whether one page of the main file passes its checksum, or the file has none; see `damaged_pages`."""
    if not has_checksums(path):
        return True
    with path.open("rb") as stream:
        page_bytes = _page_bytes(stream)
        stream.seek((number - 1) * page_bytes)
        return _passes(connection, stream.read(page_bytes), page_bytes)


def _page_bytes(stream: BinaryIO) -> int:
    size = int.from_bytes(stream.read(18)[16:], "big")  # 1 stands for what two bytes cannot hold
    return 65_536 if size == 1 else size


def _passes(connection: apsw.Connection, page: bytes, page_bytes: int) -> bool:
    return len(page) == page_bytes and connection.execute("SELECT verify_checksum(?)", (page,)).get == 1


def check_usable(path: Path, header: bytes) -> None:
    """Raise FailedPreconditionError where the file has page checksums that this installation could not keep."""
    if header[_RESERVED_AT] == RESERVED_BYTES and not available():
        raise FailedPreconditionError(
            f"{path} has page checksums, which the installed apsw cannot keep; install apsw from its wheel "
            "(pip install --force-reinstall --only-binary apsw apsw); nothing was changed"
        )


@contextlib.contextmanager
def unchecked(connection: apsw.Connection) -> Iterator[None]:
    """Let pages be read whatever their checksums say; for rows that are found by label and carry their own."""
    connection.execute("PRAGMA checksum_verification = 0", can_cache=False)
    try:
        yield
    finally:
        connection.execute("PRAGMA checksum_verification = 1", can_cache=False)


def fetch_by_label(connection: apsw.Connection, statement: str, label: int) -> Any:  # noqa: ANN401 - columns of any type
    """Return the row that a read transaction finds by label; where its page is damaged the row's own CRC must decide.

    SQLite ends the transaction when a page fails; a new one is begun, whose state may be newer.
    """
    try:
        return connection.execute(statement, (label,)).fetchone()
    except apsw.IOError as error:
        if not is_damage(error):
            raise
    if not connection.in_transaction:
        connection.execute("BEGIN")
    with unchecked(connection):
        return connection.execute(statement, (label,)).fetchone()


def is_damage(error: Exception) -> bool:
    """Return whether SQLite's error means that the file's bytes are wrong, rather than that the disk refuses."""
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return True
    return isinstance(error, apsw.Error) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA


def describe(error: Exception) -> str:
    """Return what is wrong in words: SQLite calls a failed page checksum a disk I/O error."""
    if getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
        return "a page fails its checksum"
    return str(error) or type(error).__name__
