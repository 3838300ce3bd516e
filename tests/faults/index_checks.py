"""What must be true of a collection after whatever befell it; knows nothing of how that was brought about.

Histories are those of index_history.py.
"""

import contextlib
import hashlib
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import apsw

from clip_search_server.index import Collection, Equals, Search, page_checksums
from clip_search_server.index.derived import find_damage
from clip_search_server.index.schema import store_path
from clip_search_server.index.sealed import SealedPart
from clip_search_server.index.tail import TailView
from tests.faults.index_history import VECTORS, Items, operations, written_by
from tests.unit.index.support import exact_neighbours


def assert_nothing_lost(items: Items, before: Items, done: dict[int, list[int]], seed: int) -> None:
    """Each writer's items are those after its acknowledged calls, or after one call more, whole."""
    for writer, sequences in done.items():
        expected = written_by(before, writer)
        calls = operations(seed, writer)
        for operation in itertools.islice(calls, len(sequences)):
            expected = operation.foretell(expected)
        unanswered = next(calls, None)
        possible = [expected] if unanswered is None else [expected, unanswered.foretell(expected)]
        assert written_by(items, writer) in possible, f"round {seed}, writer {writer}: not what was acknowledged"


def assert_answers_are_exact(collection: Collection, items: Items) -> None:
    """Searches, exact or not, filtered or not, find what comparing with every item finds."""
    model = {name: VECTORS[at] for name, (at, _text) in items.items()}
    for query in VECTORS[::40]:
        wanted = exact_neighbours(model, query, 15)
        assert list(collection.search(query, limit=15, exact=True).neighbours) == wanted
        assert list(collection.search(query, limit=15).neighbours) == wanted
    for _at, text in itertools.islice(items.values(), 5):
        wanted_names = {name for name, (_number, own) in items.items() if own == text}
        found = collection.find(Search(VECTORS[0], limit=9, filter=Equals("last", text))).hits
        assert {hit.item.id for hit in found} == wanted_names


def assert_what_is_derived_agrees(folder: Path) -> None:
    """What filters and texts find items by is what the items' rows say."""
    connection = apsw.Connection(str(store_path(folder)))
    try:
        assert find_damage(connection) == []
    finally:
        connection.close()


def assert_memory_equals_store(collection: Collection) -> None:
    """What is searched is what SQLite has: the same labels, ids and vectors' digests, each once."""
    view = collection._state.view
    held = []
    parts: list[SealedPart | TailView] = [*view.parts, view.tail]
    for part in parts:
        live = part.live_rows(view.sequence)
        held += [
            (part.label_at(row), part.id_at(row), hashlib.sha256(vector.tobytes()).hexdigest())
            for row, vector in zip(live.tolist(), part.vectors_of(live), strict=True)
        ]
    statement = "SELECT label, id, vector FROM items JOIN vectors USING (label)"
    with contextlib.closing(page_checksums.connect(collection._store.path)) as connection:
        stored = [
            (label, key.decode(), hashlib.sha256(vector).hexdigest())
            for label, key, vector in cast("Iterable[tuple[int, bytes, bytes]]", connection.execute(statement))
        ]
    assert sorted(held) == sorted(stored)
