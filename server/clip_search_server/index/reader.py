"""Checked reads of the store from any thread; knows nothing of writing or searching.

Each call takes a connection of its own for its time and sees one committed state: the newest when it began.
"""

import contextlib
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import apsw
import numpy as np

from clip_search_server.errors import DataLossError, UnavailableError
from clip_search_server.index import page_checksums
from clip_search_server.index.rows import ItemRow, thumbnail_from, vector_from
from clip_search_server.index.types import FloatArray, IntArray, StoredItem

_BUSY_TIMEOUT_MS = 5000
_IDLE_CONNECTIONS_MAX = 16

_COLUMNS = "label, id, sequence, attributes, text, content_digest, crc"
_ITEM = f"SELECT {_COLUMNS} FROM items WHERE id = ?"  # noqa: S608 - a constant
_ITEM_BY_LABEL = f"SELECT {_COLUMNS} FROM items WHERE label = ?"  # noqa: S608 - a constant
_LABELS_BY_ID = "SELECT label FROM items INDEXED BY sqlite_autoindex_items_1"  # Reads the index of ids alone.
_ITEMS_AFTER = f"SELECT {_COLUMNS} FROM items WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608 - a constant

_Columns = tuple[int, bytes, int, bytes, bytes, bytes, int]


class StoreReader:
    """Read connections to one SQLite file; safe from any thread.

    Every method raises DataLossError where a row fails its checksum or SQLite finds the file damaged, and
    UnavailableError after `close`.
    """

    def __init__(self, path: Path, *, dim: int) -> None:
        self._path = path
        self._dim = dim
        self._lock = threading.Lock()
        self._drained = threading.Condition(self._lock)
        self._idle: list[apsw.Connection] = []
        self._lent_count = 0
        self._closed = False

    def get(self, item_ids: Iterable[str]) -> list[StoredItem | None]:
        """Return the items of these ids in order, None where there is none."""
        with self._state() as connection:
            found = [_item(connection, item_id) for item_id in item_ids]
            return [None if row is None else self._whole(connection, row) for row in found]

    def digests(self, item_ids: Iterable[str]) -> list[bytes | None]:
        """Return the content digests of these ids in order, None where there is no item."""
        with self._state() as connection:
            found = [_item(connection, item_id) for item_id in item_ids]
            return [None if row is None else row.content_digest for row in found]

    def thumbnails(self, item_ids: Iterable[str]) -> list[bytes | None]:
        """Return the thumbnails of these ids in order, empty where the item has none, None where there is no item."""
        with self._state() as connection:
            found = [_item(connection, item_id) for item_id in item_ids]
            return [None if row is None else _thumbnail(connection, row.label) for row in found]

    def list_after(self, after: str, count: int) -> list[StoredItem]:
        """Return up to `count` items with ids above `after`, in byte order of the ids."""
        with self._state() as connection:
            found = connection.execute(_ITEMS_AFTER, (after.encode(), count)).fetchall()
            return [self._whole(connection, _checked(columns)) for columns in found]

    def labels(self) -> IntArray:
        """Return every live label, ascending."""
        with self._state() as connection:
            try:
                return _labels(connection, "SELECT label FROM items ORDER BY label")
            except apsw.IOError as error:
                if not page_checksums.is_damage(error):
                    raise
                return _labels(connection, _LABELS_BY_ID)

    def vectors(self, labels: Sequence[int]) -> Generator[tuple[int, str, FloatArray] | DataLossError, None, None]:
        """Yield label, id and vector of each label in order, or the damage found in its place."""
        with self._state() as connection:
            for label in labels:
                try:
                    yield label, _id_of(connection, label), self._vector(connection, label)
                except DataLossError as error:
                    yield error

    def close(self) -> None:
        """Wait for reads under way, refuse later ones, and close every connection."""
        with self._drained:
            self._closed = True
            self._drained.wait_for(lambda: self._lent_count == 0)
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def _whole(self, connection: apsw.Connection, row: ItemRow) -> StoredItem:
        has_thumbnail = connection.execute("SELECT 1 FROM thumbnails WHERE label = ?", (row.label,)).get is not None
        return row.joined_with(self._vector(connection, row.label), has_thumbnail=has_thumbnail)

    def _vector(self, connection: apsw.Connection, label: int) -> FloatArray:
        found = page_checksums.fetch_by_label(connection, "SELECT vector, crc FROM vectors WHERE label = ?", label)
        blob, crc = cast("tuple[bytes, int]", found or (b"", -1))
        return vector_from(label, blob, crc, self._dim)

    @contextlib.contextmanager
    def _state(self) -> Iterator[apsw.Connection]:
        """Lend a connection inside a read transaction, so that several statements see the same state."""
        connection = self._take()
        try:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                with contextlib.suppress(apsw.Error):
                    connection.execute("ROLLBACK")
        except (apsw.Error, UnicodeDecodeError) as error:
            reason = page_checksums.describe(error)
            if isinstance(error, UnicodeDecodeError) or page_checksums.is_damage(error):
                raise DataLossError(f"{self._path} is damaged ({reason}); restore it from a backup") from error
            raise UnavailableError(f"{self._path} cannot be read ({reason})") from error
        finally:
            self._give(connection)

    def _take(self) -> apsw.Connection:
        with self._lock:
            if self._closed:
                raise UnavailableError("the collection is closed")
            self._lent_count += 1
            if self._idle:
                return self._idle.pop()
        try:
            return self._connect()
        except BaseException:
            self._note_return()
            raise

    def _connect(self) -> apsw.Connection:
        try:
            return self._open_connection()
        except apsw.Error as error:
            raise UnavailableError(f"{self._path} cannot be read ({error})") from error

    def _open_connection(self) -> apsw.Connection:
        connection = page_checksums.connect(self._path)
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        connection.pragma("query_only", 1)
        # Only the writer folds the log; a reader that happens to close last must not.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        return connection

    def _give(self, connection: apsw.Connection) -> None:
        with self._lock:
            keep = len(self._idle) < _IDLE_CONNECTIONS_MAX
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()
        self._note_return()

    def _note_return(self) -> None:
        with self._drained:
            self._lent_count -= 1
            self._drained.notify_all()


def _labels(connection: apsw.Connection, statement: str) -> IntArray:
    found = connection.execute(statement)
    return np.sort(np.fromiter((cast("int", label) for (label,) in found), dtype=np.int64))


def _checked(columns: object) -> ItemRow:
    values = cast("_Columns", columns)
    return ItemRow(*values[:-1]).checked(values[-1])


def _item(connection: apsw.Connection, item_id: str) -> ItemRow | None:
    key = item_id.encode()
    try:
        columns = connection.execute(_ITEM, (key,)).fetchone()
    except apsw.IOError as error:
        if not page_checksums.is_damage(error):
            raise
        found = connection.execute(f"{_LABELS_BY_ID} WHERE id = ?", (key,)).get
        columns = found and page_checksums.fetch_by_label(connection, _ITEM_BY_LABEL, cast("int", found))
    if columns is None:
        return None
    row = _checked(columns)
    if row.id != key:
        raise DataLossError(
            f"item {item_id!r}: the store's index of ids leads to another item; restore the store from a backup"
        )
    return row


def _id_of(connection: apsw.Connection, label: int) -> str:
    columns = page_checksums.fetch_by_label(connection, _ITEM_BY_LABEL, label)
    if columns is None:
        raise DataLossError(
            f"label {label}: its row is missing although the store lists it; restore the store from a backup"
        )
    return _checked(columns).id.decode()


def _thumbnail(connection: apsw.Connection, label: int) -> bytes:
    found = connection.execute("SELECT thumbnail, crc FROM thumbnails WHERE label = ?", (label,)).fetchone()
    if found is None:
        return b""
    blob, crc = cast("tuple[bytes, int]", found)
    return thumbnail_from(label, blob, crc)
