"""Keeps the pictures that items were made from, so that a new model can embed them again; knows nothing of models.

A picture is durable before the item that it belongs to is committed, and removed once it is durable that the item was
replaced or deleted: a power cut that takes back the newest writes must find the pictures of what comes back. The store
stays the truth: a picture belongs to an item exactly while the item's content digest is its own. A crash in between
leaves pictures that no item needs; sweeping, at every opening and after deletions by filter, compares each with the
store and removes those. (File and tables: image_file.py.)

What is kept is bounded by a budget that the collections of a server share. Beyond it items are stored without their
pictures, which is counted and reported; nothing that is kept makes room for what is new.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

import apsw

from clip_search_server.errors import ClipSearchError, DataLossError, UnavailableError
from clip_search_server.index import page_checksums
from clip_search_server.index.damage import Report
from clip_search_server.index.image_file import (
    check_header,
    checked_image,
    connect_for_reading,
    connect_for_writing,
    create_image_file,
    images_path,
    totals_of,
)
from clip_search_server.index.rows import crc_of
from clip_search_server.index.types import Record

__all__ = ["Digests", "ImageBudget", "KeptImages", "KeptImagesStats", "Sync"]

_SWEPT_AT_ONCE = 500

Digests = Callable[[Sequence[str]], Sequence[bytes | None]]
"""Tells the content digests of items, None where there is no item."""

Sync = Callable[[], None]
"""Returns once everything that the store was asked for before is durable."""

_Holding = tuple[bytes, bytes]
"""An item's id and the digest of a picture that is kept for it."""


class ImageBudget:
    """How many bytes of pictures a server keeps; safe from any thread.

    Args:
        bytes_max: 0 keeps no further ones.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._used_bytes = 0
        self._lock = threading.Lock()

    def note(self, size_bytes: int) -> None:
        """Count pictures that are there already, or with a negative number those that are no longer."""
        with self._lock:
            self._used_bytes += size_bytes

    def take(self, size_bytes: int) -> bool:
        """Count a picture in if there is room for it; return whether there was."""
        with self._lock:
            fits = self._used_bytes + size_bytes <= self.bytes_max
            self._used_bytes += size_bytes if fits else 0
            return fits


@dataclass(frozen=True, slots=True)
class KeptImagesStats:
    """Pictures that are kept, their bytes, the budget of the whole server, and how many items went without since."""

    images: int
    bytes: int
    bytes_max: int
    left_out: int


class KeptImages:
    """The kept pictures of one collection; safe from any thread.

    Damage of the file keeps no item from being stored: pictures are then left out, and reading one gives the reason. A
    disk that refuses does, as it does in the store.

    Args:
        directory: the collection's folder.
        budget: shared by all collections.
        digests: asks the collection's store.
        sync: makes what it tells durable.
        report: told of damage, and when the budget is used up.
    """

    def __init__(self, directory: Path, budget: ImageBudget, digests: Digests, sync: Sync, report: Report) -> None:
        self._path = images_path(directory)
        self._budget = budget
        self._digests = digests
        self._sync = sync
        self._report = report
        # Held while the store is asked and while an upsert gives up its pins, so that no picture is removed whose item
        # is about to be committed: whoever removes sees either the pin or the commit.
        self._lock = threading.Lock()
        self._pins: Counter[_Holding] = Counter()
        self._writer: apsw.Connection | None = None
        self._reading = threading.Lock()
        self._reader: apsw.Connection | None = None
        self._sweeper: threading.Thread | None = None
        self._sweep_wanted = False
        self._closed = False
        self._images = self._bytes = self._left_out = 0
        self._told_full = False
        self._failure: ClipSearchError | None = None
        if self._path.exists():
            self._open()
            self.sweep_soon()

    @property
    def is_keeping(self) -> bool:
        """Whether pictures of new items are wanted."""
        return self._budget.bytes_max > 0

    def stats(self) -> KeptImagesStats | None:
        """Return what is kept; None where there is nothing and nothing will be."""
        if not self.is_keeping and self._writer is None:
            return None
        return KeptImagesStats(self._images, self._bytes, self._budget.bytes_max, self._left_out)

    @contextlib.contextmanager
    def keeping(self, records: Sequence[Record]) -> Iterator[None]:
        """Keep the pictures of records while they are stored inside the block, and drop those of what they replace.

        Raises:
            UnavailableError: the disk refused; nothing is to be stored.
        """
        pinned = self._put(records) if self.is_keeping and any(record.image for record in records) else []
        try:
            yield
        finally:
            self._tidy([record.id for record in records], unpinned=pinned)

    def forget(self, item_ids: Sequence[str]) -> None:
        """Drop what was kept for items that are deleted."""
        self._tidy(item_ids)

    def get(self, digest: bytes) -> bytes | None:
        """Return the picture with this digest, None where it is not kept.

        Raises:
            DataLossError: it is damaged, or the whole file is.
            FailedPreconditionError: a newer release wrote the file.
            UnavailableError: the disk refuses, or the collection is closed.
        """
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))
        with self._reading:
            if self._closed:
                raise UnavailableError("the collection is closed")
            try:
                if self._reader is None:
                    if not self._path.exists():
                        return None
                    self._reader = connect_for_reading(self._path)
                row = self._reader.execute("SELECT crc, image FROM images WHERE digest = ?", (digest,)).fetchone()
            except apsw.Error as error:
                self._raise(error)
        return None if row is None else checked_image(digest, *cast("tuple[int, bytes]", row))

    def sweep_soon(self) -> None:
        """Compare everything with the store, in the background."""
        with self._lock:
            if self._writer is None or self._closed:
                return
            self._sweep_wanted = True
            if self._sweeper is None:
                self._sweeper = threading.Thread(target=self._sweep, name="images-sweep", daemon=True)
                self._sweeper.start()

    def close(self) -> None:
        """Stop sweeping and close the file; the store must still be open. Harmless when repeated."""
        with self._lock:
            self._closed = True
            sweeper = self._sweeper
        if sweeper is not None:
            sweeper.join()
        with self._reading:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
        with self._lock:
            if self._writer is not None:
                with contextlib.suppress(apsw.Error):  # The log stays, whole, for the next opening.
                    self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                self._writer.close()
                self._writer = None
            self._budget.note(-self._bytes)
            self._bytes = 0

    # ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self) -> None:
        try:
            check_header(self._path)
            self._writer = connect_for_writing(self._path)
            self._images, self._bytes = totals_of(self._writer)
            self._budget.note(self._bytes)
        except (ClipSearchError, apsw.Error, OSError, TypeError) as error:
            self._failure = error if isinstance(error, ClipSearchError) else self._failed(error)
            self._report(f"{self._failure}; until then no pictures are kept")
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def _failed(self, error: Exception) -> ClipSearchError:
        if isinstance(error, TypeError) or page_checksums.is_damage(error):
            return DataLossError(
                f"{self._path} is damaged ({page_checksums.describe(error)}); restore it from a backup, or remove it"
            )
        return UnavailableError(
            f"{self._path}: the disk refuses ({error}), so items with pictures are refused too; check it and restart"
        )

    def _put(self, records: Sequence[Record]) -> list[_Holding]:
        """Make pictures durable, and return what is pinned until the items are committed."""
        with self._lock:
            if isinstance(self._failure, UnavailableError):
                raise UnavailableError(str(self._failure))
            try:
                held = [] if self._failure is not None else self._hold_all(records)
            except (apsw.Error, OSError) as error:
                if not page_checksums.is_damage(error):
                    # Syncing once more after a failed sync may report success for bytes that are lost.
                    if not isinstance(error, OSError | apsw.FullError | apsw.BusyError):
                        self._failure = self._failed(error)
                    self._raise(error)
                self._failure = self._failed(error)
                self._report(f"{self._failure}; until then no pictures are kept")
                held = []
            if self._failure is not None:
                self._left_out += sum(bool(record.image) for record in records)
            pinned = [holding for holding in held if holding is not None]
            self._pins.update(pinned)
            return pinned

    def _hold_all(self, records: Sequence[Record]) -> list[_Holding | None]:
        if self._writer is None:
            # A log without its file would be replayed into the new one.
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            create_image_file(self._path)
            self._writer = connect_for_writing(self._path)
        with self._transaction() as connection:
            return [self._hold(connection, record) for record in records if record.image and record.content_digest]

    def _hold(self, connection: apsw.Connection, record: Record) -> _Holding | None:
        """Keep the picture of one record; None where there is no room."""
        digest, key = record.content_digest, record.id.encode()
        if connection.execute("SELECT 1 FROM images WHERE digest = ?", (digest,)).get is None:
            if not self._budget.take(len(record.image)):
                self._tell_full()
                return None
            self._images, self._bytes = self._images + 1, self._bytes + len(record.image)
            values = (digest, crc_of(digest, record.image), record.image)
            connection.execute("INSERT INTO images (digest, crc, image) VALUES (?, ?, ?)", values)
        connection.execute("INSERT OR IGNORE INTO holders VALUES (?, ?)", (key, digest))
        return key, digest

    def _tell_full(self) -> None:
        self._left_out += 1
        if not self._told_full:
            self._told_full = True
            self._report(
                f"the kept pictures have come to --keep-images {self._budget.bytes_max:,} bytes: further items are "
                "stored without their pictures; start with a larger --keep-images, and store those items again"
            )

    def _tidy(self, item_ids: Sequence[str], unpinned: Sequence[_Holding] = ()) -> None:
        """Give up pins, then drop what is kept for these items and is not what they are made of."""
        with self._lock:
            self._pins -= Counter(unpinned)
            if self._writer is None:
                return
            try:
                held = _holdings(self._writer, item_ids)
                stale = self._stale(held) if held else []
                if stale:
                    self._sync()  # With --durability interval, what the store said may still be lost.
                    with self._transaction() as connection:
                        self._drop(connection, stale)
            except (ClipSearchError, apsw.Error) as error:
                self._report(f"{self._path}: pictures that no item needs could not be removed yet ({error})")

    def _stale(self, held: Sequence[_Holding]) -> list[_Holding]:
        """Return those that the store does not know, that nobody is about to commit, and whose item is not damaged."""
        ids = list(dict.fromkeys(key.decode() for key, _ in held))
        current = dict(zip((item_id.encode() for item_id in ids), self._known_digests(ids), strict=True))
        return [
            (key, digest)
            for key, digest in held
            if current[key] is not _UNKNOWN and current[key] != digest and not self._pins[key, digest]
        ]

    def _known_digests(self, ids: Sequence[str]) -> "list[bytes | _Unknown | None]":
        try:
            return list(self._digests(ids))
        except DataLossError:
            if len(ids) == 1:
                return [_UNKNOWN]
        return [digest for item_id in ids for digest in self._known_digests([item_id])]

    def _drop(self, connection: apsw.Connection, stale: Sequence[_Holding]) -> None:
        connection.executemany("DELETE FROM holders WHERE id = ? AND digest = ?", stale)
        for digest in dict.fromkeys(digest for _, digest in stale):
            if connection.execute("SELECT 1 FROM holders WHERE digest = ? LIMIT 1", (digest,)).get is not None:
                continue
            size = connection.execute("SELECT length(image) FROM images WHERE digest = ?", (digest,)).get
            if size is not None:
                connection.execute("DELETE FROM images WHERE digest = ?", (digest,))
                self._images, self._bytes = self._images - 1, self._bytes - cast("int", size)
                self._budget.note(-cast("int", size))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[apsw.Connection]:
        """Commit what the block does together with the totals, or nothing of it."""
        connection = self._writer
        assert connection is not None, "pictures are written without a file. This is a bug."
        images, size_bytes = self._images, self._bytes
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("UPDATE totals SET images = ?, bytes = ?", (self._images, self._bytes))
            connection.execute("COMMIT")
        except BaseException:
            self._budget.note(size_bytes - self._bytes)
            self._images, self._bytes = images, size_bytes
            if connection.in_transaction:
                with contextlib.suppress(apsw.Error):
                    connection.execute("ROLLBACK")
            raise
        self._told_full = self._told_full and self._bytes >= size_bytes

    def _sweep(self) -> None:
        while True:
            with self._lock:
                if self._closed or not self._sweep_wanted:
                    self._sweeper = None if not self._closed else self._sweeper
                    return
                self._sweep_wanted = False
            after: bytes | None = b""
            while after is not None and not self._closed:
                after = self._sweep_some(after)

    def _sweep_some(self, after: bytes) -> bytes | None:
        """Look at the next items that pictures are kept for; return the last one's id, None at the end."""
        with self._lock:
            if self._writer is None:
                return None
            try:
                rows = self._writer.execute(
                    "SELECT DISTINCT id FROM holders WHERE id > ? ORDER BY id LIMIT ?", (after, _SWEPT_AT_ONCE)
                ).fetchall()
            except apsw.Error as error:
                self._report(f"{self._path}: {page_checksums.describe(error)}")
                return None
        keys = [cast("bytes", key) for (key,) in rows]
        self._tidy([key.decode() for key in keys])
        return keys[-1] if keys else None

    def _raise(self, error: Exception) -> NoReturn:
        if page_checksums.is_damage(error):
            reason = page_checksums.describe(error)
            raise DataLossError(
                f"{self._path} is damaged ({reason}); restore it from a backup, or remove it"
            ) from error
        raise UnavailableError(f"{self._path}: the disk refuses ({error}); nothing was stored") from error


class _Unknown:
    """Stands for the digest of an item that is damaged."""


_UNKNOWN = _Unknown()


def _holdings(connection: apsw.Connection, item_ids: Sequence[str]) -> list[_Holding]:
    statement = "SELECT id, digest FROM holders WHERE id = ?"
    rows = (row for item_id in item_ids for row in connection.execute(statement, (item_id.encode(),)))
    return list(dict.fromkeys(cast("_Holding", row) for row in rows))
