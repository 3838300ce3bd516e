"""hnswlib's own traps: each shown to be real where that is safe, and shown to be avoided.

What it shares with the other engines (ENOSPC, truncated and foreign files, fewer than k, `ef` after loading) is tested
in test_segment_engines.py.
"""

import struct
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_search_server.errors import DataLossError, InvalidArgumentError
from clip_search_server.index import IndexSettings, Record
from clip_search_server.index.types import FloatArray
from tests.unit.index.conftest import OpenCollection
from tests.unit.index.support import DIM, ids_of, random_vectors, wait_until

hnswlib: Any = pytest.importorskip("hnswlib")
segments: Any = pytest.importorskip("clip_search_server.index.hnswlib_segment")

SETTINGS = IndexSettings(build_threads=1)
VECTORS = random_vectors(300, seed=1)


def _graph(vectors: FloatArray, space: str = "ip") -> Any:
    """Return a graph as the library makes it by itself."""
    graph = hnswlib.Index(space=space, dim=vectors.shape[1])
    graph.init_index(max_elements=len(vectors))
    graph.add_items(vectors, num_threads=1)
    return graph


def test_the_library_forgets_ef_and_no_query_relies_on_it(tmp_path: Path) -> None:
    """`ef` belongs to the index and falls back to 10 on loading; a segment's answers do not depend on that."""
    path = tmp_path / "graph"
    engine = segments.HnswlibEngine(SETTINGS)
    engine.build(VECTORS, lambda: False).save(path)
    plain = hnswlib.Index(space="ip", dim=DIM)
    plain.load_index(str(path))
    assert plain.ef == 10, "hnswlib now keeps ef: this trap is gone"
    loaded = engine.load(path, node_count=300, dim=DIM)
    assert loaded._graph.ef == 1
    loaded.nearest(VECTORS[0], 5, 200)
    assert loaded._graph.ef == 1, "a request must never change the index"


class _Disconnected:
    """A graph of 100 nodes of which a search reaches 20; like the library, it raises beyond."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def set_ef(self, ef: int) -> None: ...

    def get_current_count(self) -> int:
        return 100

    def knn_query(self, query: FloatArray, k: int, num_threads: int) -> tuple[object, object]:
        self.asked.append(k)
        if k > 20:
            raise RuntimeError("Cannot return the results in a contiguous 2D array. Probably ef or M is too small")
        return np.arange(k)[np.newaxis], np.zeros((1, k))


def test_a_graph_that_raised_is_not_asked_for_as_many_again() -> None:
    """The library leaks its buffers whenever it raises; one failure lowers what the segment asks for."""
    graph = _Disconnected()
    segment = segments.HnswlibSegment(graph)
    for count in (30, 40, 30, 30):
        assert segment.nearest(VECTORS[0], count, 1) is None
    assert graph.asked == [30]
    assert segment.nearest(VECTORS[0], 20, 1).tolist() == list(range(20))


def test_a_graph_that_cannot_explore_ef_nodes_explores_fewer() -> None:
    """Where only the exploring asks for too many, the answer still comes, after a bounded number of failures."""
    graph = _Disconnected()
    segment = segments.HnswlibSegment(graph)
    for _ in range(5):
        assert segment.nearest(VECTORS[0], 5, 90).tolist() == list(range(5))
    assert graph.asked == [90, 45, 22, 11, 11, 11, 11, 11]


def test_asking_for_too_many_raises_in_the_library() -> None:
    """The trap behind the two tests above is real."""
    with pytest.raises(RuntimeError, match="contiguous 2D array"):
        _graph(VECTORS).knn_query(VECTORS[0], k=301)


def test_saving_reports_nothing_in_the_library(tmp_path: Path) -> None:
    """A full disk and a missing folder go unnoticed: the reason for comparing sizes."""
    graph = _graph(VECTORS)
    graph.save_index(str(tmp_path / "missing" / "graph"))
    assert not (tmp_path / "missing").exists()
    if Path("/dev/full").exists():
        graph.save_index("/dev/full")


def test_a_graph_of_another_dimension_and_metric_loads_in_the_library(tmp_path: Path) -> None:
    """The library loads a graph of 32 components as one of 16 and answers; a segment refuses it."""
    path = tmp_path / "graph"
    _graph(random_vectors(50, seed=8, dim=2 * DIM), space="cosine").save_index(str(path))
    plain = hnswlib.Index(space="l2", dim=DIM)
    plain.load_index(str(path))
    assert plain.get_current_count() == 50, "hnswlib now checks: this trap is gone"
    with pytest.raises(DataLossError, match=f"does not hold vectors of {DIM} components"):
        segments.HnswlibEngine(SETTINGS).load(path, node_count=50, dim=DIM)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (16, 299),
        (16, 1 << 40),
        (24, 8),
        (24, 1 << 20),
        (32, 0),
        (40, 0),
        (0, 64),
        (52, 300),
        (56, 8),
        (64, 1 << 20),
        (72, 1),
    ],
)
def test_a_crafted_header_never_reaches_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int, value: int
) -> None:
    """A header whose numbers do not fit each other or the file overflows the library's heap; it is refused before."""
    path = tmp_path / "graph"
    segments.HnswlibEngine(SETTINGS).build(VECTORS, lambda: False).save(path)
    whole = bytearray(path.read_bytes())
    struct.pack_into("<I" if offset == 52 else "<Q", whole, offset, value)
    path.write_bytes(whole)

    def touched(*_arguments: object, **_options: object) -> None:
        raise AssertionError("the library was given a crafted file")

    monkeypatch.setattr(segments.hnswlib, "Index", touched)
    with pytest.raises(DataLossError, match="graph"):
        segments.HnswlibEngine(SETTINGS).load(path, node_count=300, dim=DIM)


def test_equal_vectors_hide_each_other_in_the_library(open_collection: OpenCollection) -> None:
    """Among many equal vectors the library reaches only some; a collection, whose nodes are distinct, finds all."""
    same = np.repeat(VECTORS[:1], 2000, axis=0)
    graph = hnswlib.Index(space="ip", dim=DIM)
    graph.init_index(max_elements=2300, M=4, ef_construction=20)
    graph.add_items(np.concatenate([same, VECTORS]), num_threads=1)
    graph.set_ef(2300)
    with pytest.raises(RuntimeError, match="contiguous 2D array"):
        graph.knn_query(VECTORS[0], k=2300)
    collection = open_collection(IndexSettings(engine="hnswlib", tail_rows_max=400, graph_links=4))
    ids = [f"item {at:04d}" for at in range(500)]
    collection.upsert([Record(item_id, VECTORS[0]) for item_id in ids])
    collection.upsert([Record(f"other {at}", VECTORS[at]) for at in range(1, 300)])
    wait_until(lambda: collection.stats().tail_row_count < 400)
    assert ids_of(collection.search(VECTORS[0], limit=500)) == ids


def test_nan_is_accepted_by_the_library_and_refused_by_a_collection(open_collection: OpenCollection) -> None:
    """A NaN would poison the graph without a word; no such vector or query gets as far."""
    poison = np.full((1, DIM), np.nan, dtype=np.float32)
    _graph(np.concatenate([VECTORS[:5], poison]))
    collection = open_collection(IndexSettings(engine="hnswlib"))
    [outcome] = collection.upsert([Record("a", poison[0])]).results
    assert isinstance(outcome, InvalidArgumentError)
    with pytest.raises(InvalidArgumentError, match="query: must be finite"):
        collection.search(poison[0], limit=1)


def test_the_library_may_find_a_label_twice_and_a_collection_never_does(open_collection: OpenCollection) -> None:
    """A deleted label that is given out again lives in two places of a graph; here no label is given out again."""
    graph = hnswlib.Index(space="ip", dim=DIM)
    graph.init_index(max_elements=10, allow_replace_deleted=True)
    graph.add_items(VECTORS[:5], [0, 1, 2, 3, 4], num_threads=1)
    graph.mark_deleted(1)
    graph.mark_deleted(2)
    for again in (5, 6):
        graph.add_items(VECTORS[again : again + 1], [2], num_threads=1, replace_deleted=True)
    found, _distances = graph.knn_query(VECTORS[5], k=5)
    assert sorted(found[0].tolist()).count(2) == 2, "hnswlib now finds a label once: this trap is gone"
    settings = IndexSettings(engine="hnswlib", tail_rows_max=8)
    collection = open_collection(settings)
    ids = [f"item {at}" for at in range(10)]
    for round_ in range(4):
        collection.delete(ids[1:3])
        collection.upsert([Record(item_id, VECTORS[at + 10 * round_]) for at, item_id in enumerate(ids)])
        wait_until(lambda: collection.stats().tail_row_count < 8)
        assert sorted(ids_of(collection.search(VECTORS[5], limit=20))) == ids
    collection.close()
    reopened = open_collection(settings)
    assert sorted(ids_of(reopened.search(VECTORS[5], limit=20))) == ids
    assert ids_of(reopened.search(VECTORS[32], limit=1)) == ["item 2"]


@pytest.mark.parametrize("forbidden", ["mark_deleted", "unmark_deleted", "resize_index"])
def test_a_graph_is_never_changed_once_it_can_be_searched(
    open_collection: OpenCollection, monkeypatch: pytest.MonkeyPatch, forbidden: str
) -> None:
    """Deleting, re-adding and growing inside a graph are unsafe in the library: churn makes new graphs instead."""
    calls: list[str] = []
    searched: set[int] = set()
    searchers: defaultdict[int, set[int]] = defaultdict(set)

    class Watched(hnswlib.Index):  # type: ignore[misc]
        def knn_query(self, *arguments: object, **options: object) -> object:
            assert "filter" not in options, "the filter takes the interpreter's lock for each candidate"
            searched.add(id(self))
            searchers[id(self)].add(threading.get_ident())
            return super().knn_query(*arguments, **options)

        def save_index(self, *arguments: object, **options: object) -> object:
            # Tuning has searched it, in this very thread; others get it once it is saved.
            assert searchers[id(self)] <= {threading.get_ident()}, "a graph was saved that others may be searching"
            return super().save_index(*arguments, **options)

        def add_items(self, *arguments: object, **options: object) -> object:
            assert id(self) not in searched, "a graph was changed after it was searched"
            return super().add_items(*arguments, **options)

    setattr(Watched, forbidden, lambda *_arguments, **_options: calls.append(forbidden))
    kept: list[Watched] = []  # So that no identity is used twice.

    def make(*arguments: object, **options: object) -> Watched:
        kept.append(Watched(*arguments, **options))
        return kept[-1]

    monkeypatch.setattr(segments.hnswlib, "Index", make)
    collection = open_collection(IndexSettings(engine="hnswlib", tail_rows_max=32, segments_max=2))
    for round_ in range(3):
        for first in range(0, 280, 40):
            collection.upsert([Record(f"item {at}", VECTORS[(at + round_) % 300]) for at in range(first, first + 40)])
            collection.delete([f"item {at}" for at in range(first, first + 40, 3)])
            wait_until(lambda: collection.stats().tail_row_count < 32)
            assert len(collection.search(VECTORS[0], limit=5).neighbours) == 5
    wait_until(lambda: len(collection.stats().segments) <= 2)
    assert calls == []
    assert len(kept) > 5
