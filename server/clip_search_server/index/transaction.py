"""Writes in progress: what a record, an update and a deletion are in rows; knows nothing of commits and disks."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import apsw

from clip_search_server.errors import InvalidArgumentError, NotFoundError
from clip_search_server.index import derived, page_checksums
from clip_search_server.index.attributes import encode_attributes
from clip_search_server.index.filter_sql import matching_among
from clip_search_server.index.filters import Filter
from clip_search_server.index.rows import ItemRow, crc_of
from clip_search_server.index.types import DeleteOutcome, FloatArray, IntArray, Record, UpsertOutcome


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

    def put_all(self, records: Sequence[Record | InvalidArgumentError]) -> UpsertOutcome:
        """Store records in order; what cannot be stored, or was refused before, has its error in its place."""
        results: list[int | InvalidArgumentError | NotFoundError] = []
        replaced: list[bool] = []
        for record in records:
            replaced.append(not isinstance(record, InvalidArgumentError) and self.contains(record.id))
            try:
                results.append(record if isinstance(record, InvalidArgumentError) else self.put(record))
            except NotFoundError as error:
                results.append(error)
        return UpsertOutcome(tuple(results), self.sequence, tuple(replaced))

    def put(self, record: Record) -> int:
        """Store a record whose vector, if it has one, is of unit length; return its sequence number.

        A vector equal to the stored one keeps its label, so that nothing changes in memory. Without a vector the item
        keeps its own, and with it the digest of what that was made from and, if the record says so, its thumbnail.

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
            if record.vector is not None or record.thumbnail is not None:
                self._connection.execute("DELETE FROM thumbnails WHERE label = ?", (old,))
            derived.remove(self._connection, old)
        else:
            label = self._replace_vector(old, record)
        attributes = encode_attributes(record.attributes)
        row = ItemRow(label, key, self.sequence, attributes, record.text.encode(), digest)
        self._connection.execute(
            "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?)",
            (label, key, row.sequence, row.attributes, row.text, row.content_digest, row.crc()),
        )
        derived.add(self._connection, label, record.attributes, record.text)
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

    def remove_all(self, item_ids: Sequence[str]) -> DeleteOutcome:
        """Delete items; ids without an item are passed over."""
        return DeleteOutcome(sum(self.remove(item_id) for item_id in item_ids), self.sequence)

    def remove_matching(self, labels: IntArray, filter_: Filter) -> DeleteOutcome:
        """Delete those items of these labels that the filter (still) allows."""
        found = sorted(matching_among(self._connection, filter_, labels).tolist())
        for label in found:
            self.sequence += 1
            self._drop(label)
        return DeleteOutcome(len(found), self.sequence)

    def remake_derived(self) -> None:
        """Make what items are found by anew from their rows."""
        derived.rebuild(self._connection)

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
        derived.remove(self._connection, label)
        self.changes.append(Removed(label, self.sequence))
