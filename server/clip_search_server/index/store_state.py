"""One committed state of the store, read inside a transaction, every row checked; knows nothing of connections' lives.

What several calls of one `StoreState` return belongs together, whatever is written meanwhile.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import apsw
import numpy as np

from clip_search_server.errors import DataLossError
from clip_search_server.index import page_checksums
from clip_search_server.index.filter_sql import (
    array_of,
    driver_of,
    labels_from,
    matching_among,
    matching_labels,
    sql_of,
)
from clip_search_server.index.filters import Filter
from clip_search_server.index.rows import (
    COUNTERS,
    ITEM_COLUMNS,
    ItemRow,
    counters_from,
    item_from,
    thumbnail_from,
    vector_from,
)
from clip_search_server.index.text_sql import TextMatch, best_texts
from clip_search_server.index.types import FloatArray, IntArray, StoredItem

# Counting further to find the best driver would cost as much as driving with the wrong one.
_DRIVER_ROWS_MAX = 16_384

_ITEM = f"SELECT {ITEM_COLUMNS} FROM items WHERE id = ?"  # noqa: S608 - a constant
_ITEM_BY_LABEL = f"SELECT {ITEM_COLUMNS} FROM items WHERE label = ?"  # noqa: S608 - a constant
_LABEL_BY_CONTENT = (
    "SELECT label FROM items INDEXED BY items_by_content WHERE content_digest = ? AND content_digest <> x'' LIMIT 1"
)
# In one statement, because each step of each statement gives the interpreter's lock away and has to wait for it.
_ITEMS_BY_LABEL = f"""
SELECT {", ".join(f"items.{column}" for column in ITEM_COLUMNS.split(", "))},
    vectors.vector, vectors.crc, EXISTS (SELECT 1 FROM thumbnails WHERE thumbnails.label = items.label)
FROM carray(?) AS wanted CROSS JOIN items ON items.label = wanted.value
LEFT JOIN vectors ON vectors.label = items.label
"""  # noqa: S608 - a constant
_LABELS_BY_ID = "SELECT label FROM items INDEXED BY sqlite_autoindex_items_1"  # Reads the index of ids alone.
_ITEMS_AFTER = "SELECT {columns} FROM items WHERE id > ? AND {test} ORDER BY id LIMIT ?"
_ITEMS_AMONG = (
    "SELECT {columns} FROM carray(?) AS wanted CROSS JOIN items ON items.label = wanted.value "
    "WHERE id > ? ORDER BY id LIMIT ?"
)


class StoreState:
    """Reads of one state.

    Every method raises DataLossError where a row fails its checksum.

    Args:
        connection: inside a read transaction, which the first read ties to the newest state.
        dim: components of a vector.
    """

    def __init__(self, connection: apsw.Connection, dim: int) -> None:
        self._connection = connection
        self._dim = dim

    def counters(self) -> tuple[int, int]:
        """Return the number of the newest write, and the label that the next new vector gets."""
        return counters_from(self._connection.execute(COUNTERS).get)

    def row(self, item_id: str) -> ItemRow | None:
        """Return the row of an item, None where there is none."""
        key = item_id.encode()
        columns = self._columns_of(key)
        if columns is None:
            return None
        row = item_from(columns)
        if row.id != key:
            raise DataLossError(
                f"item {item_id!r}: the store's index of ids leads to another item; restore the store from a backup"
            )
        return row

    def _columns_of(self, key: bytes) -> Any:  # noqa: ANN401 - of any type
        """Return the columns of an id's row, unchecked; where a page is damaged, by way of the index of ids."""
        try:
            return self._connection.execute(_ITEM, (key,)).fetchone()
        except apsw.IOError as error:
            if not page_checksums.is_damage(error):
                raise
        label = self._connection.execute(f"{_LABELS_BY_ID} WHERE id = ?", (key,)).get
        return label and page_checksums.fetch_by_label(self._connection, _ITEM_BY_LABEL, cast("int", label))

    def row_of_label(self, label: int) -> ItemRow:
        """Return the row of a label that has one in this state."""
        columns = page_checksums.fetch_by_label(self._connection, _ITEM_BY_LABEL, label)
        if columns is None:
            raise DataLossError(
                f"label {label}: its row is missing although the store lists it; restore the store from a backup"
            )
        return item_from(columns)

    def row_of_content(self, digest: bytes) -> ItemRow | None:
        """Return the row of an item whose content has this digest, None where there is none."""
        label = self._connection.execute(_LABEL_BY_CONTENT, (digest,)).get
        row = None if label is None else self.row_of_label(cast("int", label))
        return row if row is not None and row.content_digest == digest else None

    def item(self, row: ItemRow) -> StoredItem:
        """Return the whole item of a row."""
        statement = "SELECT 1 FROM thumbnails WHERE label = ?"
        has_thumbnail = self._connection.execute(statement, (row.label,)).get is not None
        return row.joined_with(self.vector(row.label), has_thumbnail=has_thumbnail)

    def items_of_labels(self, labels: Sequence[int]) -> list[StoredItem]:
        """Return the whole items of labels that each have one in this state, in order."""
        if not labels:
            return []
        try:
            wanted = array_of(np.array(labels, dtype=np.int64))
            rows = self._connection.execute(_ITEMS_BY_LABEL, (wanted,)).fetchall()
        except apsw.IOError as error:
            if not page_checksums.is_damage(error):
                raise
            rows = []
        found = {cast("int", columns[0]): columns for columns in rows}
        # What is missing lies on a damaged page, or is damaged itself: one by one it is found, or the damage named.
        return [self._item(found[label]) if label in found else self.item(self.row_of_label(label)) for label in labels]

    def _item(self, columns: tuple[Any, ...]) -> StoredItem:
        *item, vector, vector_crc, has_thumbnail = columns
        row = item_from(tuple(item))
        unit = vector_from(row.label, vector or b"", -1 if vector is None else vector_crc, self._dim)
        return row.joined_with(unit, has_thumbnail=bool(has_thumbnail))

    def vector(self, label: int) -> FloatArray:
        """Return the vector of a label, float32 (dim,)."""
        found = page_checksums.fetch_by_label(
            self._connection, "SELECT vector, crc FROM vectors WHERE label = ?", label
        )
        blob, crc = found or (b"", -1)
        return vector_from(label, blob, crc, self._dim)

    def thumbnail(self, label: int) -> bytes:
        """Return the thumbnail of a label, empty where it has none."""
        found = self._connection.execute("SELECT thumbnail, crc FROM thumbnails WHERE label = ?", (label,)).fetchone()
        return b"" if found is None else thumbnail_from(label, *found)

    def labels(self) -> IntArray:
        """Return every label, ascending."""
        try:
            return labels_from(self._connection.execute("SELECT label FROM items ORDER BY label"))
        except apsw.IOError as error:
            if not page_checksums.is_damage(error):
                raise
        return np.sort(labels_from(self._connection.execute(_LABELS_BY_ID)))

    def items_after(self, after: str, count: int, filter_: Filter | None, *, rows_few: int) -> list[StoredItem]:
        """Return up to `count` items that the filter allows, with ids above `after`, in byte order of the ids.

        Args:
            after: the id to begin behind.
            count: how many at most.
            filter_: None allows every item.
            rows_few: where the filter allows no more than this, they are found first and sorted; else items are tested
                in the order of their ids.
        """
        key = after.encode()
        if filter_ is not None and (labels := self.few_matching(filter_, rows_few)) is not None:
            statement = _ITEMS_AMONG.format(columns=ITEM_COLUMNS)
            found = self._connection.execute(statement, (array_of(labels), key, count)) if len(labels) else ()
        else:
            test = sql_of(filter_, "items.label")
            statement = _ITEMS_AFTER.format(columns=ITEM_COLUMNS, test=test.text)
            found = self._connection.execute(statement, (key, *test.bindings, count))
        return [self.item(item_from(columns)) for columns in list(found)]

    def matching(self, filter_: Filter) -> IntArray:
        """Return all labels that the filter allows, ascending."""
        return matching_labels(self._connection, filter_, driver_of(self._connection, filter_, _DRIVER_ROWS_MAX))

    def few_matching(self, filter_: Filter, rows_max: int) -> IntArray | None:
        """Return all labels that the filter allows, ascending, or None where there may be more than `rows_max`."""
        driver = driver_of(self._connection, filter_, rows_max)
        return matching_labels(self._connection, filter_, driver) if driver.row_count <= rows_max else None

    def matching_among(self, filter_: Filter | None, labels: IntArray) -> IntArray:
        """Return those labels that have an item, and one that the filter allows, in no order."""
        return matching_among(self._connection, filter_, labels)

    def best_texts(
        self, words: str, filter_: Filter | None, *, count: int | None, words_max: int
    ) -> Iterator[TextMatch]:
        """Yield items whose texts match any of the words, best first, `count` at most; see `text_sql.best_texts`."""
        return best_texts(self._connection, words, filter_, count=count, words_max=words_max)
