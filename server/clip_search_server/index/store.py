"""The source of truth: SQLite through apsw, one writer, many readers; knows nothing of segments, threads or searching.

The writer's connection is used by one thread at a time. Folding the log into the main file ("checkpoint") is done
here explicitly and never by SQLite on its own: its automatic checkpoint swallows errors, and an fsync that failed once
must not be tried again, since the kernel may have dropped the pages (Rebello et al., "Can applications recover from
fsync failures?", USENIX ATC 2020). After any error of the disk the store refuses writes until it is opened anew.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import apsw

from clip_search_server.errors import DataLossError, NotFoundError, UnavailableError
from clip_search_server.index import page_checksums
from clip_search_server.index.files import sync_file
from clip_search_server.index.rows import ItemRow, crc_of
from clip_search_server.index.settings import Durability
from clip_search_server.index.types import FloatArray, Record

_BUSY_TIMEOUT_MS = 5000
_CACHE_KIB = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class Added:
    """A label that came to life: this id now has this vector, float32 (dim,)."""

    label: int
    id: str
    vector: FloatArray


@dataclass(frozen=True, slots=True)
class Removed:
    """A label that died with this sequence number."""

    label: int
    sequence: int


Change = Added | Removed


class Transaction:
    """Writes in progress; nothing is visible to readers or durable before the transaction ends.

    Attributes:
        changes: what the vectors in memory must follow once the transaction is durable, in order.
        sequence: number of the newest write.
        next_label: the label that the next new vector gets; labels are never used twice.
    """

    def __init__(self, connection: apsw.Connection, sequence: int, next_label: int) -> None:
        self._connection = connection
        self.changes: list[Change] = []
        self.sequence = sequence
        self.next_label = next_label

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo everything inside the block if it raises, and let the rest of the transaction stand."""
        mark = (len(self.changes), self.sequence, self.next_label)
        self._connection.execute("SAVEPOINT operation")
        try:
            yield
        except apsw.Error:
            raise  # The disk failed: the whole transaction is about to be rolled back.
        except BaseException:
            self._connection.execute("ROLLBACK TO operation")
            self._connection.execute("RELEASE operation")
            del self.changes[mark[0] :]
            self.sequence, self.next_label = mark[1:]
            raise
        self._connection.execute("RELEASE operation")

    def put(self, record: Record) -> int:
        """Store a record whose vector, if it has one, is of unit length; return its sequence number.

        A vector equal to the stored one keeps its label, so that nothing changes in memory. Without a vector the item
        keeps its own, and with it the digest of what that was made from.

        Raises:
            NotFoundError: there is no vector, neither given nor stored.
        """
        key = record.id.encode()
        old, old_digest = self._label_and_digest_of(key)
        if record.vector is None and old is None:
            raise NotFoundError(f"content: is unset, and no item {record.id!r} is stored whose vector could be kept.")
        digest = old_digest if record.vector is None else record.content_digest
        self.sequence += 1
        if old is not None and (record.vector is None or self._has_vector(old, record.vector)):
            label = old
            self._connection.execute("DELETE FROM items WHERE label = ?", (old,))
            self._connection.execute("DELETE FROM thumbnails WHERE label = ?", (old,))
        else:
            label = self._replace_vector(old, record)
        row = ItemRow(label, key, self.sequence, record.attributes, record.text.encode(), digest)
        self._connection.execute(
            "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?)",
            (label, key, row.sequence, row.attributes, row.text, row.content_digest, row.crc()),
        )
        if record.thumbnail:
            values = (label, record.thumbnail, crc_of(label, record.thumbnail))
            self._connection.execute("INSERT INTO thumbnails VALUES (?, ?, ?)", values)
        return self.sequence

    def contains(self, item_id: str) -> bool:
        """Return whether there is an item of this id."""
        return self._label_and_digest_of(item_id.encode())[0] is not None

    def remove(self, item_id: str) -> bool:
        """Delete an item; return whether there was one."""
        old, _ = self._label_and_digest_of(item_id.encode())
        if old is None:
            return False
        self.sequence += 1
        self._drop(old)
        return True

    def _label_and_digest_of(self, key: bytes) -> tuple[int | None, bytes]:
        row = self._connection.execute("SELECT label, content_digest FROM items WHERE id = ?", (key,)).get
        return cast("tuple[int, bytes] | None", row) or (None, b"")

    def _has_vector(self, label: int, vector: FloatArray) -> bool:
        # A damaged row counts as different, so that writing an item again heals it.
        with page_checksums.unchecked(self._connection):
            row = self._connection.execute("SELECT vector, crc FROM vectors WHERE label = ?", (label,)).get
        given = vector.astype("<f4").tobytes()
        return row is not None and cast("tuple[bytes, int]", row) == (given, crc_of(label, given))

    def _replace_vector(self, old: int | None, record: Record) -> int:
        if old is not None:
            self._drop(old)
        if record.vector is None:
            raise AssertionError("a label was wanted for a record without a vector. This is a bug.")
        label = self.next_label
        self.next_label += 1
        blob = record.vector.astype("<f4").tobytes()
        self._connection.execute("INSERT INTO vectors VALUES (?, ?, ?)", (label, blob, crc_of(label, blob)))
        self.changes.append(Added(label, record.id, record.vector))
        return label

    def _drop(self, label: int) -> None:
        # Read first, whatever the page's checksum says: it is then in the cache, and a damaged row can be deleted while
        # all else that deleting touches, such as the list of free pages, is checked.
        with page_checksums.unchecked(self._connection):
            for table in ("vectors", "thumbnails"):
                self._connection.execute(f"SELECT * FROM {table} WHERE label = ?", (label,)).fetchall()  # noqa: S608
        for table in ("items", "vectors", "thumbnails"):
            self._connection.execute(f"DELETE FROM {table} WHERE label = ?", (label,))  # noqa: S608 - three constants
        self.changes.append(Removed(label, self.sequence))


class Store:
    """The writer's side of the SQLite file.

    Attributes:
        sequence: number of the newest committed write.
        next_label: the label that the next new vector gets.
        failure: why writes are refused since the disk failed, or None.
    """

    def __init__(self, path: Path, *, durability: Durability) -> None:
        self._path = path
        self._log_pages = 0
        self.failure: str | None = None
        try:
            self._connection = page_checksums.connect(path)
            try:
                self._connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
                self._connection.pragma("journal_mode", "wal")
                self._connection.pragma("synchronous", "full" if durability == "always" else "normal")
                self._connection.pragma("cache_size", -_CACHE_KIB)
                self._connection.set_wal_hook(self._note_log_pages)  # Replaces the automatic checkpoint.
                self.sequence, self.next_label = self._read_counters()
            except BaseException:
                self._connection.close()
                raise
        except apsw.Error as error:
            if page_checksums.is_damage(error):
                reason = page_checksums.describe(error)
                raise DataLossError(f"{path} is damaged ({reason}); restore it from a backup") from error
            raise UnavailableError(f"{path} cannot be opened ({error}); check the disk") from error

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self._path

    @property
    def log_pages(self) -> int:
        """Pages in the write-ahead log after the newest commit."""
        return self._log_pages

    def check_writable(self) -> None:
        """Raise UnavailableError where the disk has failed before."""
        if self.failure is not None:
            raise UnavailableError(
                f"writes are refused since an earlier failure ({self.failure}); check the disk and restart the server"
            )

    def refuse_writes(self, reason: str) -> None:
        """Accept no further write until the collection is opened anew."""
        self.failure = self.failure or reason

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Run writes that become durable together when the block ends, or not at all when it raises.

        Raises:
            UnavailableError: the disk failed, now or earlier; nothing of the block is acknowledged.
        """
        self.check_writable()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            transaction = Transaction(self._connection, self.sequence, self.next_label)
            yield transaction
            if (transaction.sequence, transaction.next_label) != (self.sequence, self.next_label):
                self._write_counters(transaction.sequence, transaction.next_label)
            self._connection.execute("COMMIT")
        except apsw.BusyError as error:
            # Nothing is wrong with the disk: some tool holds the file. Later writes may succeed.
            self._roll_back()
            raise UnavailableError(f"{self._path} is locked by another program; close it and try again") from error
        except apsw.IOError as error:
            if page_checksums.is_damage(error):  # Found while reading, before anything was written.
                self._roll_back()
                reason = page_checksums.describe(error)
                raise DataLossError(f"{self._path} is damaged ({reason}); restore it from a backup") from error
            self._fail(error)
            self.check_writable()
        except apsw.Error as error:
            self._fail(error)
            self.check_writable()
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        else:
            self.sequence, self.next_label = transaction.sequence, transaction.next_label

    def advance(self, *, sequence: int, next_label: int) -> None:
        """Raise the counters to at least these, durably; used when a generation is ahead of the store."""
        with self.transaction() as transaction:
            transaction.next_label = max(transaction.next_label, next_label)
            transaction.sequence = max(transaction.sequence, sequence)

    def sync(self) -> None:
        """Make every committed write durable, whatever the durability setting.

        Raises:
            UnavailableError: the disk refused.
        """
        self.check_writable()
        log = Path(f"{self._path}-wal")  # SQLite holds no locks on this file, so opening and closing it is safe.
        try:
            if log.exists():
                sync_file(log)
        except OSError as error:
            self._fail(error)
            self.check_writable()

    def checkpoint(self) -> None:
        """Fold the log into the main file as far as readers allow.

        Raises:
            UnavailableError: the disk refused; later writes are refused as well.
        """
        self.check_writable()
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._log_pages = 0
        except apsw.Error as error:
            self._fail(error)
            self.check_writable()

    def close(self) -> None:
        """Fold the log into the main file and close; every reader must be closed before.

        Raises:
            UnavailableError: the disk refused; what the log held is still in it.
        """
        try:
            if self.failure is None:
                with contextlib.suppress(apsw.BusyError):  # Some tool still reads the file; the log stays, whole.
                    self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.Error as error:
            self._fail(error)
            self.check_writable()
        finally:
            self._connection.close()

    def _fail(self, error: Exception) -> None:
        self.failure = page_checksums.describe(error)
        # Closing would otherwise checkpoint, which repeats the fsync that failed.
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._roll_back()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(apsw.Error):
                self._connection.execute("ROLLBACK")

    def _read_counters(self) -> tuple[int, int]:
        row = self._connection.execute("SELECT sequence, next_label, crc FROM counters").get
        sequence, next_label, crc = cast("tuple[int, int, int]", row or (0, 0, -1))
        if crc != crc_of(sequence, next_label):
            raise DataLossError(f"{self._path}: the counters fail their checksum; restore the store from a backup")
        return sequence, next_label

    def _write_counters(self, sequence: int, next_label: int) -> None:
        self._connection.execute(
            "UPDATE counters SET sequence = ?, next_label = ?, crc = ?",
            (sequence, next_label, crc_of(sequence, next_label)),
        )

    def _note_log_pages(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK
