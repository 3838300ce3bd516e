"""Items are deleted, written again and updated over and over: graphs decay under that, a collection must not."""

from pathlib import Path

import numpy as np
import pytest

from clip_search_server.index import Collection, IndexSettings, Record
from clip_search_server.index.types import IntArray
from tests.faults.index_checks import assert_memory_equals_store
from tests.unit.index.support import Model, clustered_vectors, exact_neighbours, ids_of, model_of, wait_until

pytestmark = pytest.mark.faults

DIM = 24
ITEMS = 1500
ROUNDS = 40
CHANGED = ITEMS // 5  # a round
RECALL_LOSS_MAX = 0.01
# Graphs so sparse, and searches so short, that decay would show.
SETTINGS = IndexSettings(
    tail_rows_max=256, segments_max=3, throttle_seconds_max=60.0, graph_links=5, ef_min=10, recall_target=0.9
)

VECTORS = clustered_vectors(4 * ITEMS, clusters=40, spread=0.6, seed=21, dim=DIM)
QUERIES = clustered_vectors(60, clusters=40, spread=0.8, seed=22, dim=DIM)


def _open(folder: Path) -> Collection:
    return Collection.open(folder, dim=DIM, space_id="space of the churn", settings=SETTINGS)


def _write(collection: Collection, model: Model, numbers: IntArray, first: int) -> None:
    for some in np.array_split(numbers, 8):
        vectors = {f"item {number}": VECTORS[(number + first) % len(VECTORS)] for number in some.tolist()}
        collection.upsert([Record(item_id, vector) for item_id, vector in vectors.items()])
        model.update(vectors)


def _recall(collection: Collection, model: Model) -> float:
    """Return the share of the true ten nearest that searches find, after asserting that no answer is wrong."""
    hits = 0
    for query in QUERIES:
        found = ids_of(collection.search(query, limit=10))
        assert len(found) == len(set(found)) == 10, "a hit came twice, or one is missing"
        assert set(found) <= model.keys(), "a deleted item was found"
        hits += len(set(found) & {hit.id for hit in exact_neighbours(model, query, 10)})
    return hits / (10 * len(QUERIES))


@pytest.mark.timeout(600)
def test_churn_and_a_restart_cost_no_recall(tmp_path: Path) -> None:
    """After 40 rounds of changing a fifth of all items each is there once, and recall is that of a fresh build."""
    random = np.random.default_rng(23)
    collection, model = _open(tmp_path / "churned"), Model()
    _write(collection, model, np.arange(ITEMS), 0)
    for round_ in range(1, ROUNDS + 1):
        changed = random.permutation(ITEMS)[:CHANGED]
        gone = [f"item {number}" for number in changed[: CHANGED // 2].tolist()]
        collection.delete(gone)
        for item_id in gone:
            model.pop(item_id, None)
        _write(collection, model, changed[CHANGED // 4 :], round_ * 97)  # A quarter stays deleted for now.
    wait_until(lambda: collection.stats().tail_row_count < SETTINGS.tail_rows_max)
    before = _recall(collection, model)
    collection.close()
    reopened = _open(tmp_path / "churned")
    assert model_of(reopened).keys() == model.keys()
    assert_memory_equals_store(reopened)
    after = _recall(reopened, model)
    reopened.close()
    fresh = _open(tmp_path / "fresh")
    items = list(model.items())
    for start in range(0, len(items), 200):
        fresh.upsert([Record(item_id, vector) for item_id, vector in items[start : start + 200]])
    wait_until(lambda: fresh.stats().tail_row_count < SETTINGS.tail_rows_max)
    wanted = _recall(fresh, model)
    fresh.close()
    print(f"\nrecall after churn {before:.4f}, after a restart {after:.4f}, built afresh {wanted:.4f}")  # noqa: T201
    assert min(before, after) >= wanted - RECALL_LOSS_MAX
