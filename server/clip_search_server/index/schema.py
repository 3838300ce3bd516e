"""The SQLite file's tables, its birth, and the checks before it is opened; knows nothing of rows' meaning.

The truth, a checksum a row (rows.py):

    meta        key, value            collection_id, space_id, dim, metric; never changes after creation
    counters    sequence, next_label, crc                  one row, rewritten by every transaction
    items       label (key), id (unique), sequence, attributes, text, content_digest, crc
    vectors     label (key), vector (dim x float32, little-endian, unit length), crc
    thumbnails  label (key), thumbnail, crc                only for items that have one

What is found by it, derived from `items` in the same transaction and made anew by `derived.py`:

    attributes  label, name, kind, key (together the key)  an entry a value (attributes.py); `attributes_by_key` is the
                                                           same by name, kind, key
    texts       FTS5 without content, rowid = label        the words of items that have a text

And an index of `items`:

    items_by_content   content_digest, of items that have one: whether a content is stored already, under whatever id

The three row tables are apart because they are read apart: searching needs neither thumbnails nor texts, and a scan of
the labels at start-up must not walk over gigabytes of vectors. `texts` cuts words as Unicode 6.1 does, ignores case and
diacritics, and keeps no prefixes: words match whole. `application_id` marks the file as ours and
`user_version` is the format version; both lie in the first hundred bytes, where they can be read without SQLite
touching the folder. Every page ends with a checksum (page_checksums.py).
"""

import contextlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import quote

import apsw

from clip_search_server.errors import DataLossError, FailedPreconditionError, SpaceMismatchError, UnavailableError
from clip_search_server.index import page_checksums
from clip_search_server.index.own_sqlite import create_file, format_version_of_file
from clip_search_server.index.rows import crc_of

FORMAT_VERSION = 1
METRIC = "cosine"
STORE_NAME = "store.sqlite3"

_APPLICATION_ID = 0x434C5331  # "CLS1"
_PAGE_BYTES = 8192  # three 512-dimensional vectors a page

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE counters (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    sequence INTEGER NOT NULL,
    next_label INTEGER NOT NULL,
    crc INTEGER NOT NULL
);
CREATE TABLE items (
    label INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    sequence INTEGER NOT NULL,
    attributes BLOB NOT NULL,
    text BLOB NOT NULL,
    content_digest BLOB NOT NULL,
    crc INTEGER NOT NULL
);
-- Only what has a digest is in it: vectors that callers bring have none, and their writes cost no more for it.
CREATE INDEX items_by_content ON items (content_digest) WHERE content_digest <> x'';
CREATE TABLE vectors (label INTEGER PRIMARY KEY, vector BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE thumbnails (label INTEGER PRIMARY KEY, thumbnail BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE attributes (
    label INTEGER NOT NULL,
    name BLOB NOT NULL,
    kind INTEGER NOT NULL,
    key NOT NULL,
    PRIMARY KEY (label, name, kind, key)
) WITHOUT ROWID;
CREATE INDEX attributes_by_key ON attributes (name, kind, key);
CREATE VIRTUAL TABLE texts USING fts5(
    text, content = '', contentless_delete = 1, tokenize = "unicode61 remove_diacritics 2"
);
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two folders the same collection, and their vectors comparable."""

    collection_id: str
    space_id: str
    dim: int


def identity_of(directory: Path, *, dim: int, space_id: str) -> Identity:
    """Return the identity of the store in `directory`, creating the store where the folder is new.

    Raises:
        OSError, UnavailableError: see `create_store`.
        DataLossError, FailedPreconditionError, SpaceMismatchError: see `check_store`; or the store alone is missing.
    """
    path = store_path(directory)
    if not path.exists():
        # A log without its store would be replayed into the new one.
        if any(directory.glob("generations/*.json")) or Path(f"{path}-wal").exists():
            raise DataLossError(
                f"{path} is missing although {directory} has been used; restore the store from a backup"
            )
        create_store(path, space_id=space_id, dim=dim)
    return check_store(path, space_id=space_id, dim=dim)


def create_store(path: Path, *, space_id: str, dim: int) -> None:
    """Make an empty store appear at `path`, whole and durable.

    Raises:
        OSError: the disk refused.
        UnavailableError: the disk refused SQLite.
    """

    def fill(connection: apsw.Connection) -> None:
        connection.execute(TABLES)
        connection.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            [("collection_id", uuid.uuid4().hex), ("space_id", space_id), ("dim", dim), ("metric", METRIC)],
        )
        connection.execute("INSERT INTO counters VALUES (1, 0, 1, ?)", (crc_of(0, 1),))

    try:
        create_file(path, fill, page_bytes=_PAGE_BYTES, application_id=_APPLICATION_ID, format_version=FORMAT_VERSION)
    except apsw.Error as error:
        raise UnavailableError(f"{path} cannot be created ({error}); check the disk") from error


def check_store(path: Path, *, space_id: str, dim: int) -> Identity:
    """Return the identity of the store at `path` without changing a byte of its folder.

    The caller holds the folder's lock: no connection may be open, because closing the file here would drop its locks.

    Raises:
        DataLossError: not a store, or damaged.
        FailedPreconditionError: written by a newer release.
        SpaceMismatchError: its vectors are another model's.
    """
    identity = read_identity(path)
    if identity.space_id != space_id:
        raise SpaceMismatchError(
            f"{path.parent} holds vectors of space {identity.space_id!r} but the model makes vectors of space "
            f"{space_id!r}; serve the model it was made with or choose another data folder; nothing was changed"
        )
    if identity.dim != dim:
        raise SpaceMismatchError(
            f"{path.parent} holds vectors of {identity.dim} components but the model's have {dim}; "
            "serve the model it was made with or choose another data folder; nothing was changed"
        )
    return identity


def store_path(directory: Path) -> Path:
    """Return where a collection's store lies."""
    return directory / STORE_NAME


def read_identity(path: Path, *, older: bool = False) -> Identity:
    """Return whose store lies at `path` without changing a byte of its folder; no connection may be open.

    Args:
        path: the store.
        older: also where it must be migrated before it can be used.

    Raises:
        DataLossError: not a store, or damaged.
        FailedPreconditionError: written by a newer release, or by an older one.
    """
    version = format_version_of(path)
    if version > FORMAT_VERSION:
        raise FailedPreconditionError(
            f"{path} has format {version}, newer than the {FORMAT_VERSION} this release reads; "
            "use the release that wrote it; nothing was changed"
        )
    if version < FORMAT_VERSION and not older:
        raise FailedPreconditionError(
            f"{path} has format {version}, older than the {FORMAT_VERSION} of this release; run clip-search migrate"
        )
    return _identity(path)


def format_version_of(path: Path) -> int:
    """Return the format version in a store's header.

    Raises:
        DataLossError: not a store, or its header is damaged.
        FailedPreconditionError: this installation could not keep the store's page checksums.
    """
    version = format_version_of_file(path, _APPLICATION_ID)
    if version is None:
        raise DataLossError(f"{path} is not a clip-search store, or its header is damaged; restore it from a backup")
    return version


def _identity(path: Path) -> Identity:
    try:
        try:
            meta = _meta(path)
        except apsw.Error as error:
            if not page_checksums.is_damage(error) or not _will_be_mended(path):
                raise
            meta = _meta(path, is_half_written=True)
        return Identity(str(meta["collection_id"]), str(meta["space_id"]), int(meta["dim"]))
    except (apsw.Error, KeyError, ValueError) as error:
        reason = page_checksums.describe(error)
        raise DataLossError(f"{path} is damaged ({reason}); restore it from a backup") from error


def _meta(path: Path, *, is_half_written: bool = False) -> dict[str, str | int]:
    """Return what `meta` holds, from the main file alone.

    Where a crash came while the log was folded, the main file may be half old and half new: its first page torn, its
    size not what that page says. The log has all of it and will mend it. Where a power cut came while the file was made
    one that has a log, its first page may be torn, which its journal will mend. The page of `meta` is never written
    again, so it is read all the same, and must pass its own checksum.
    """
    # "immutable" keeps SQLite from creating or reading the log: `meta` has been in the main file since its creation.
    address = f"file:{quote(os.fspath(path.absolute()))}?immutable=1"
    connection = page_checksums.connect(address, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    with contextlib.closing(connection):
        if not is_half_written:
            return _rows_of_meta(connection)
        connection.pragma("writable_schema", 1)  # Takes a file that is shorter than its first page says.
        with page_checksums.unchecked(connection):
            page = cast("int", connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'meta'").get)
            meta = _rows_of_meta(connection)
        if not page_checksums.is_intact(connection, path, page):
            raise apsw.CorruptError(f"page {page} fails its checksum")
        return meta


def _rows_of_meta(connection: apsw.Connection) -> dict[str, str | int]:
    return dict(cast("list[tuple[str, str | int]]", list(connection.execute("SELECT key, value FROM meta"))))


def _will_be_mended(path: Path) -> bool:
    """Tell whether opening the store for writing finds what a crash interrupted, and finishes or undoes it."""
    beside = (Path(f"{path}{suffix}") for suffix in ("-wal", "-journal"))
    return any(each.exists() and each.stat().st_size > 0 for each in beside)
