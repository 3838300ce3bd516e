"""The tables that items are found by: entries of attributes and words of texts; knows nothing of vectors.

They repeat what the checked rows of `items` say, in the same transaction. So they carry no checksums of their own:
`find_damage` compares them with the rows and `rebuild` makes them anew, and a search checks what it returns against
the row itself.
"""

from collections.abc import Iterator
from typing import cast

import apsw

from clip_search_server.errors import DataLossError
from clip_search_server.index.attributes import Attributes, decode_attributes, entries_of
from clip_search_server.index.rows import ITEM_COLUMNS, ItemRow, item_from

_SENTENCES_MAX = 100


def add(connection: apsw.Connection, label: int, attributes: Attributes, text: str) -> None:
    """Make an item found by its attributes and its text."""
    entries = [(label, name, kind.value, key) for name, kind, key in entries_of(attributes)]
    if entries:
        connection.executemany("INSERT INTO attributes VALUES (?, ?, ?, ?)", entries)
    if text:
        connection.execute("INSERT INTO texts (rowid, text) VALUES (?, ?)", (label, text))


def remove(connection: apsw.Connection, label: int) -> None:
    """Make an item found by neither any more."""
    connection.execute("DELETE FROM attributes WHERE label = ?", (label,))
    connection.execute("DELETE FROM texts WHERE rowid = ?", (label,))


def rebuild(connection: apsw.Connection) -> None:
    """Make both tables anew from the rows of `items`, inside the caller's transaction; damaged rows are left out.

    The index of contents is made anew too, though it is SQLite's own and SQLite's own check tells when that is needed.
    """
    connection.execute("REINDEX items_by_content")
    connection.execute("DELETE FROM attributes")
    connection.execute("INSERT INTO texts (texts) VALUES ('delete-all')")
    for row in _rows(connection):
        if isinstance(row, ItemRow):
            add(connection, row.label, decode_attributes(row.attributes), row.text.decode())


def find_damage(connection: apsw.Connection, *, ask_index_of_texts: bool = True) -> list[str]:
    """Return a sentence for each difference between the tables and the rows of `items`, at most a hundred.

    FTS5's own check, too, is asked for by a statement that needs a connection that can write; it changes nothing, and
    SQLite's `integrity_check` includes it.
    """
    found = []
    if ask_index_of_texts:
        try:
            connection.execute("INSERT INTO texts (texts) VALUES ('integrity-check')")
        except apsw.CorruptError:
            found.append("the index of texts fails its own check")
    for row in _rows(connection):
        if isinstance(row, ItemRow):
            found.extend(_differences(connection, row))
        if len(found) >= _SENTENCES_MAX:
            return found[:_SENTENCES_MAX]
    for table, key in (("attributes", "label"), ("texts", "rowid")):
        statement = f"SELECT count(*) FROM {table} WHERE {key} NOT IN (SELECT label FROM items)"  # noqa: S608 - constants
        if stray := connection.execute(statement).get:
            found.append(f"the index of {table} has {stray} entries of items that do not exist")
    return found


def _differences(connection: apsw.Connection, row: ItemRow) -> Iterator[str]:
    stored = connection.execute("SELECT name, kind, key FROM attributes WHERE label = ?", (row.label,)).fetchall()
    wanted = [(name, kind.value, key) for name, kind, key in entries_of(decode_attributes(row.attributes))]
    # As they are written: 1 and 1.0 are equal but not the same.
    if sorted(map(repr, stored)) != sorted(map(repr, wanted)):
        yield f"item {row.id!r}: the index of attributes does not say what its row says"
    is_indexed = connection.execute("SELECT 1 FROM texts WHERE rowid = ?", (row.label,)).get is not None
    if is_indexed != bool(row.text):
        yield f"item {row.id!r}: the index of texts does not say what its row says"


def _rows(connection: apsw.Connection) -> Iterator[ItemRow | DataLossError]:
    for columns in connection.execute(f"SELECT {ITEM_COLUMNS} FROM items ORDER BY label"):  # noqa: S608 - a constant
        try:
            yield item_from(cast("tuple[object, ...]", columns))
        except DataLossError as error:
            yield error
