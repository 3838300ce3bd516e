"""SQLite files of our own: born whole, and told from others by their header; knows nothing of their tables."""

from collections.abc import Callable
from pathlib import Path

import apsw

from clip_search_server.index import page_checksums
from clip_search_server.index.files import publish_file

__all__ = ["create_file", "format_version_of_file"]

_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\x00"


def create_file(
    path: Path, fill: Callable[[apsw.Connection], None], *, page_bytes: int, application_id: int, format_version: int
) -> None:
    """Make a file with page checksums, and with what `fill` puts into it, appear at `path`, whole and durable.

    Raises:
        OSError, apsw.Error: the disk refused.
    """

    def write(temporary: Path) -> None:
        temporary.unlink(missing_ok=True)
        connection = page_checksums.connect(temporary)
        try:
            connection.pragma("page_size", page_bytes)
            page_checksums.add_to_new_file(connection)
            connection.pragma("journal_mode", "memory")  # A journal left by a crash would spoil the next attempt.
            with connection:
                fill(connection)
                connection.pragma("application_id", application_id)
                connection.pragma("user_version", format_version)
        finally:
            connection.close()

    publish_file(path, write)


def format_version_of_file(path: Path, application_id: int) -> int | None:
    """Return the format version in a file's header, None where it is not such a file, or its header is damaged.

    Raises:
        OSError: it cannot be read.
        FailedPreconditionError: this installation could not keep its page checksums.
    """
    with path.open("rb") as stream:
        header = stream.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        return None
    if int.from_bytes(header[68:72], "big") != application_id:
        return None
    page_checksums.check_usable(path, header)
    return int.from_bytes(header[60:64], "big")
