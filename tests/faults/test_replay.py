"""What is replayed twice counts once: by a store that recovers again, and by a client that sends again."""

import contextlib
import hashlib
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pytest

from clip_search_server.index import Collection, page_checksums
from clip_search_server.index.schema import store_path
from tests.faults.index_checks import assert_answers_are_exact, assert_memory_equals_store
from tests.faults.index_history import OPERATIONS, WRITERS, items_of, open_victim, operations
from tests.faults.nursery import open_nursery

pytestmark = pytest.mark.faults

KILLS = 20

Row = tuple[int, str, int, str]


def _rows(collection: Collection) -> list[Row]:
    """Return what SQLite has: label, id, sequence and the vector's digest of every item, and the counters."""
    statement = "SELECT label, id, sequence, vector FROM items JOIN vectors USING (label) ORDER BY label"
    with contextlib.closing(page_checksums.connect(store_path(collection._store.path.parent))) as connection:
        found = cast("Iterable[tuple[int, bytes, int, bytes]]", connection.execute(statement))
        rows = [(label, key.decode(), at, hashlib.sha256(vector).hexdigest()) for label, key, at, vector in found]
    return [*rows, (collection._store.next_label, "", collection.sequence, "")]


@pytest.mark.timeout(300)
def test_recovering_twice_is_recovering_once(tmp_path: Path) -> None:
    """After a kill, after a second kill right after recovering, and after an orderly stop: the same rows each time."""
    folder = tmp_path / "collection"
    with open_nursery("tests.faults.index_victim") as nursery:
        for seed in range(KILLS):
            chance = random.Random(seed)
            answers = chance.randint(1, WRITERS * OPERATIONS)
            nursery.kill_one(folder, seed, lines=answers, delay_seconds=chance.random() * 0.004)
            once = shutil.copytree(folder, tmp_path / f"{seed}")
            again = tmp_path / f"{seed} again"
            collection = open_victim(once)
            rows = _rows(collection)
            # As a kill at this moment would leave it: recovered, not closed. Segments are just being written.
            shutil.copytree(once, again, ignore=shutil.ignore_patterns("lock", "*-shm", "segments", "generations"))
            collection.close()
            for path in (once, again):
                collection = open_victim(path)
                assert _rows(collection) == rows, f"round {seed}: {path.name}"
                assert_memory_equals_store(collection)
                assert_answers_are_exact(collection, items_of(collection))
                collection.close()


def test_a_call_sent_twice_counts_once(tmp_path: Path) -> None:
    """A client that lost an answer sends its call again: items and vectors are those of one call."""
    once, twice = open_victim(tmp_path / "once"), open_victim(tmp_path / "twice")
    try:
        for seed in range(3):
            for operation in operations(seed, 0):
                operation.run(once)
                operation.run(twice)
                operation.run(twice)
        assert items_of(twice) == items_of(once)
        assert twice.item_count == once.item_count
        assert_memory_equals_store(twice)
        assert_answers_are_exact(twice, items_of(once))
    finally:
        once.close()
        twice.close()
