"""hnswlib's traps, each shown to be real where that is safe, and shown to be avoided."""

from pathlib import Path

import hnswlib
import numpy as np
import pytest

from clip_search_server.errors import DataLossError
from clip_search_server.index import IndexSettings
from clip_search_server.index.hnsw_segment import HnswEngine, HnswSegment
from clip_search_server.index.segment import BuildCancelledError
from clip_search_server.index.types import FloatArray
from tests.unit.index.support import DIM, random_vectors

SETTINGS = IndexSettings(ef_search=77, build_threads=1)


def _build(vectors: FloatArray) -> HnswSegment:
    return HnswEngine(SETTINGS).build(vectors, lambda: False)


def test_a_graph_finds_the_nearest_vectors() -> None:
    """Each vector's nearest node is itself, and the others follow by distance."""
    vectors = random_vectors(300, seed=1)
    segment = _build(vectors)
    for at in range(0, 300, 10):
        nodes = segment.nearest(vectors[at], 5)
        assert nodes is not None
        assert nodes.tolist() == np.argsort(-(vectors @ vectors[at]))[:5].tolist()


def test_ef_survives_loading(tmp_path: Path) -> None:
    """The library forgets `ef` on loading; a loaded segment has the configured one all the same."""
    vectors = random_vectors(50, seed=2)
    path = tmp_path / "graph"
    _build(vectors).save(path)
    plain = hnswlib.Index(space="ip", dim=DIM)
    plain.load_index(str(path))
    assert plain.ef == 10, "hnswlib now keeps ef: this trap is gone"
    assert HnswEngine(SETTINGS).load(path, node_count=50, dim=DIM)._graph.ef == 77


def test_asking_for_more_than_the_graph_reaches_gives_none() -> None:
    """The library raises then; a segment says None, so that the caller scans."""
    segment = _build(random_vectors(40, seed=3))
    assert segment.nearest(random_vectors(1, seed=4)[0], 41) is None


def test_a_graph_that_raised_is_not_asked_for_as_many_again() -> None:
    """The library leaks its buffers whenever it raises; one failure lowers what the segment asks for."""

    class Disconnected:
        calls = 0

        def set_ef(self, ef: int) -> None: ...

        def get_current_count(self) -> int:
            return 100

        def knn_query(self, query: FloatArray, k: int, num_threads: int) -> tuple[object, object]:
            self.calls += 1
            if k > 20:
                raise RuntimeError("Cannot return the results in a contiguous 2D array. Probably ef or M is too small")
            return np.arange(k)[np.newaxis], np.zeros((1, k))

    graph = Disconnected()
    segment = HnswSegment(graph, ef_search=10)
    query = random_vectors(1, seed=5)[0]
    assert segment.nearest(query, 30) is None
    assert segment.nearest(query, 40) is None
    assert segment.nearest(query, 30) is None
    assert graph.calls == 1
    nodes = segment.nearest(query, 20)
    assert nodes is not None
    assert nodes.tolist() == list(range(20))


def test_saving_into_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """The library reports nothing when it cannot write; a segment raises OSError."""
    with pytest.raises(OSError, match=r"0 of \d+ bytes"):
        _build(random_vectors(10, seed=6)).save(tmp_path / "missing" / "graph")


def test_saving_onto_a_full_disk_is_an_error() -> None:
    """The library reports nothing when the disk is full; a segment raises OSError."""
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is missing")
    with pytest.raises(OSError, match="is the disk full"):
        _build(random_vectors(10, seed=7)).save(Path("/dev/full"))


def test_a_graph_of_another_size_is_refused(tmp_path: Path) -> None:
    """The library checks next to nothing on loading; a segment checks the count and refuses what is no graph."""
    path = tmp_path / "graph"
    _build(random_vectors(50, seed=8)).save(path)
    with pytest.raises(DataLossError, match="50 vectors but its manifest says 51"):
        HnswEngine(SETTINGS).load(path, node_count=51, dim=DIM)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataLossError, match="not a graph"):
        HnswEngine(SETTINGS).load(path, node_count=50, dim=DIM)


def test_a_build_can_be_given_up() -> None:
    """A build stops soon after it is cancelled."""
    looks = iter([False, True])
    with pytest.raises(BuildCancelledError):
        HnswEngine(SETTINGS).build(random_vectors(5000, seed=9), lambda: next(looks))
