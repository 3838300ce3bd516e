"""The source of truth: SQLite through apsw, one writer, many readers; knows nothing of segments, threads or searching.

The writer's connection is used by one thread at a time. Folding the log into the main file ("checkpoint") is done
here explicitly and never by SQLite on its own: its automatic checkpoint swallows errors, and an fsync that failed once
must not be tried again, since the kernel may have dropped the pages (Rebello et al., "Can applications recover from
fsync failures?", USENIX ATC 2020). After any error of the disk the store refuses writes until it is opened anew.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import apsw

from clip_search_server.errors import DataLossError, UnavailableError
from clip_search_server.index import page_checksums
from clip_search_server.index.figures import WriteFigures
from clip_search_server.index.files import sync_file
from clip_search_server.index.rows import COUNTERS, counters_from, crc_of
from clip_search_server.index.settings import Durability
from clip_search_server.index.transaction import Transaction

_BUSY_TIMEOUT_MS = 5000
_CACHE_KIB = 16_384


class Store:
    """The writer's side of the SQLite file.

    Attributes:
        sequence: number of the newest committed write.
        next_label: the label that the next new vector gets.
        failure: why writes are refused since the disk failed, or None.
        figures: how long the disk took.
    """

    def __init__(self, path: Path, *, durability: Durability) -> None:
        self._path = path
        self._log_pages = 0
        self._commits_sync = durability == "always"
        self.figures = WriteFigures()
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
            self._commit()
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

    def _commit(self) -> None:
        started = time.monotonic()
        self._connection.execute("COMMIT")
        if self._commits_sync:
            self.figures.sync_seconds.observe(time.monotonic() - started)

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
                started = time.monotonic()
                sync_file(log)
                self.figures.sync_seconds.observe(time.monotonic() - started)
        except OSError as error:
            self._fail(error)
            self.check_writable()

    def checkpoint(self) -> None:
        """Fold the log into the main file as far as readers allow; folded whole, it begins anew.

        Raises:
            UnavailableError: the disk refused; later writes are refused as well.
        """
        self.check_writable()
        try:
            logged, folded = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            self._fail(error)
            self.check_writable()
        else:
            if logged == folded:
                self._begin_log_anew()
            self._log_pages = 0

    def _begin_log_anew(self) -> None:
        """Write a page to a log that is folded whole, which makes SQLite give up what is in it.

        Until somebody writes, the old log would stay valid. If one of its pages were damaged then, SQLite would take it
        to end there, and lay the old pages before over the newer ones of the main file.
        """
        with self.transaction():
            # Written twice, because a row that stays the same is not written at all.
            self._connection.execute("UPDATE counters SET crc = crc + 1")
            self._write_counters(self.sequence, self.next_label)

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
        return counters_from(self._connection.execute(COUNTERS).get)

    def _write_counters(self, sequence: int, next_label: int) -> None:
        self._connection.execute(
            "UPDATE counters SET sequence = ?, next_label = ?, crc = ?",
            (sequence, next_label, crc_of(sequence, next_label)),
        )

    def _note_log_pages(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK
