from pathlib import Path

import numpy as np
import pytest

from clip_search_server.index import Collection, IndexSettings, Record
from tests.unit.index.support import SPACE, clustered_vectors, ids_of, wait_until


@pytest.mark.slow
def test_recall_on_clustered_vectors(tmp_path: Path) -> None:
    """At default graph settings at least 95% of the ten nearest of clustered vectors are found, after churn too."""
    dim = 64
    vectors = clustered_vectors(6100, clusters=60, spread=0.35, seed=1, dim=dim)
    queries = vectors[6000:]
    settings = IndexSettings(tail_rows_max=1500)
    collection = Collection.open(tmp_path / "recall", dim=dim, space_id=SPACE, settings=settings)
    try:
        for part in np.array_split(np.arange(6000), 12):
            collection.upsert([Record(f"item {at}", vectors[at]) for at in part])
        collection.delete([f"item {at}" for at in range(0, 6000, 5)])
        wait_until(lambda: collection.stats().tail_row_count < 1500)
        assert collection.stats().segments
        hits = wanted = 0
        for query in queries:
            exact = set(ids_of(collection.search(query, limit=10, exact=True)))
            hits += len(exact & set(ids_of(collection.search(query, limit=10))))
            wanted += len(exact)
        assert wanted == 1000
        assert hits / wanted >= 0.95
    finally:
        collection.close()
