"""The SQLite file of kept pictures: its tables, its birth and how it is opened; knows nothing of what is kept when.

`images.sqlite3` lies beside a collection's store and appears with the first picture. The store does without it:

    images    number (key), digest (unique), crc, image    a row a different picture; the CRC covers digest and image
    holders   id, digest (together the key)                 the items a picture is kept for; `holders_by_digest` is the
                                                           same by digest
    totals    images, bytes                                one row: how many there are, and their bytes together

`digest` is what `items.content_digest` of the store says of an item that was made from the picture. Every page carries
a checksum (page_checksums.py). `application_id` marks the file as ours, `user_version` is its format version, numbered
apart from the store's. Every commit is synced, whatever the durability of the store.
"""

from pathlib import Path
from typing import cast

import apsw

from clip_search_server.errors import DataLossError, FailedPreconditionError
from clip_search_server.index import page_checksums
from clip_search_server.index.own_sqlite import create_file, format_version_of_file
from clip_search_server.index.rows import crc_of

IMAGES_NAME = "images.sqlite3"

_FORMAT_VERSION = 1
_APPLICATION_ID = 0x434C5349  # "CLSI"
_PAGE_BYTES = 16_384  # pictures have hundreds of kilobytes
_BUSY_TIMEOUT_MS = 5_000

_TABLES = """
CREATE TABLE images (
    number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, crc INTEGER NOT NULL, image BLOB NOT NULL
);
CREATE TABLE holders (id BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (id, digest)) WITHOUT ROWID;
CREATE INDEX holders_by_digest ON holders (digest);
CREATE TABLE totals (only INTEGER PRIMARY KEY CHECK (only = 1), images INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO totals VALUES (1, 0, 0);
"""


def images_path(directory: Path) -> Path:
    """Return where a collection's kept pictures lie."""
    return directory / IMAGES_NAME


def create_image_file(path: Path) -> None:
    """Make an empty file appear at `path`, whole and durable.

    Raises:
        OSError, apsw.Error: the disk refused.
    """

    def fill(connection: apsw.Connection) -> None:
        connection.execute(_TABLES)

    create_file(path, fill, page_bytes=_PAGE_BYTES, application_id=_APPLICATION_ID, format_version=_FORMAT_VERSION)


def check_header(path: Path) -> None:
    """Check that this release can use the file at `path`; no connection to it may be open.

    Raises:
        DataLossError: not a file of pictures, or its header is damaged.
        FailedPreconditionError: a newer release wrote it, or this installation could not keep its page checksums.
    """
    version = format_version_of_file(path, _APPLICATION_ID)
    if version is None:
        raise DataLossError(f"{path} is no file of kept pictures, or its header is damaged; restore it from a backup")
    if version != _FORMAT_VERSION:
        raise FailedPreconditionError(
            f"{path} has format {version}, not the {_FORMAT_VERSION} of this release; use the release that wrote it"
        )


def connect_for_writing(path: Path) -> apsw.Connection:
    """Open the one connection that writes.

    Raises:
        apsw.Error: SQLite refused.
    """
    connection = page_checksums.connect(path)
    try:
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_for_reading(path: Path) -> apsw.Connection:
    """Open a connection that only reads, beside the one that writes.

    Raises:
        apsw.Error: SQLite refused.
    """
    connection = page_checksums.connect(path)
    try:
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        connection.pragma("query_only", 1)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    except BaseException:
        connection.close()
        raise
    return connection


def totals_of(connection: apsw.Connection) -> tuple[int, int]:
    """Return how many pictures there are, and their bytes."""
    return cast("tuple[int, int]", connection.execute("SELECT images, bytes FROM totals").get)


def checked_image(digest: bytes, crc: int, image: bytes) -> bytes:
    """Return the picture of a row.

    Raises:
        DataLossError: it fails its checksum.
    """
    if crc != crc_of(digest, image):
        raise DataLossError("the kept picture fails its checksum; store the item again")
    return image
