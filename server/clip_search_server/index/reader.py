"""Checked reads of the store from any thread; knows nothing of writing or searching.

Each call takes a connection of its own for its time and sees one committed state: the newest when it began.
"""

import contextlib
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

import apsw

from clip_search_server.errors import DataLossError, UnavailableError
from clip_search_server.index import page_checksums
from clip_search_server.index.filters import Filter
from clip_search_server.index.store_state import StoreState
from clip_search_server.index.types import FloatArray, IntArray, StoredItem

_BUSY_TIMEOUT_MS = 5000
_IDLE_CONNECTIONS_MAX = 16


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
        with self.state() as state:
            found = [state.row(item_id) for item_id in item_ids]
            return [None if row is None else state.item(row) for row in found]

    def digests(self, item_ids: Iterable[str]) -> list[bytes | None]:
        """Return the content digests of these ids in order, None where there is no item."""
        with self.state() as state:
            found = [state.row(item_id) for item_id in item_ids]
            return [None if row is None else row.content_digest for row in found]

    def thumbnails(self, item_ids: Iterable[str]) -> list[bytes | None]:
        """Return the thumbnails of these ids in order, empty where the item has none, None where there is no item."""
        with self.state() as state:
            found = [state.row(item_id) for item_id in item_ids]
            return [None if row is None else state.thumbnail(row.label) for row in found]

    def vector_of_content(self, digest: bytes) -> FloatArray | None:
        """Return the vector of an item whose content has this digest, float32 (dim,), None where there is none."""
        with self.state() as state:
            row = state.row_of_content(digest)
            return None if row is None else state.vector(row.label)

    def list_after(
        self, after: str, count: int, filter_: Filter | None = None, *, rows_few: int = 0
    ) -> list[StoredItem]:
        """Return up to `count` items with ids above `after`, in byte order of the ids; see `StoreState.items_after`."""
        with self.state() as state:
            return state.items_after(after, count, filter_, rows_few=rows_few)

    def labels(self) -> IntArray:
        """Return every live label, ascending."""
        with self.state() as state:
            return state.labels()

    def vectors(self, labels: Sequence[int]) -> Generator[tuple[int, str, FloatArray] | DataLossError, None, None]:
        """Yield label, id and vector of each label in order, or the damage found in its place."""
        with self.state() as state:
            for label in labels:
                try:
                    yield label, state.row_of_label(label).id.decode(), state.vector(label)
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

    @contextlib.contextmanager
    def state(self) -> Iterator[StoreState]:
        """Give the newest state, for several reads that see the same whatever is written meanwhile."""
        connection = self._take()
        try:
            connection.execute("BEGIN")
            try:
                yield StoreState(connection, self._dim)
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
