"""Segments as hnswlib graphs; knows nothing of items or of how files are published.

hnswlib 0.8.0 leaves a good deal to its caller. What this module does about each point:

- Adding while querying corrupts: a graph is searched only after its last insertion, and never changed again. To extend
  one, its file is loaded a second time.
- `ef` belongs to the index and falls back to 10 on loading. A query explores the larger of `ef` and the neighbours it
  asks for: `ef` is set to 1, once, and each query asks for as many as it wants explored.
- Asking for more neighbours than the search reaches raises and leaks the result buffers: the number is limited to the
  node count, and after a failure no query asks this segment for as many again.
- Saving reports no error at all, be the disk full or the folder missing: the file's size is compared with what the
  graph says it needs.
- Loading believes the file (a crafted one overflows the heap, one of another dimension loads and answers): the header
  is read and checked first. A flipped bit beyond it would go unnoticed: the caller has checked the file's digest.
- Many equal vectors make items unreachable: nodes are distinct vectors.
- NaN is accepted and poisons the graph: every vector was checked when it was written (scoring.py).
- Deleting, replacing and filtering inside the graph each have defects of their own: none of them is used.
- Saving and loading hold the interpreter's lock (`bench/bench_engines.py` measures for how long).
"""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np

from clip_search_server.errors import DataLossError
from clip_search_server.index.building import check_size, parameters_of, parts_to_insert
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.types import FloatArray, IntArray

_RANDOM_SEED = 100
# The file begins with: offset of level 0, capacity, node count, bytes a node, offset of its label, offset of its
# vector, top level, entry node, three link bounds, the level multiplier, ef_construction. The vector lies between the
# links and the label. (hnswalg.h, `saveIndex`.)
_HEADER = struct.Struct("<6QiI3QdQ")


class HnswlibSegment:
    """A finished hnswlib graph; see `Segment`."""

    def __init__(self, graph: Any) -> None:  # noqa: ANN401 - hnswlib has no types
        self._graph = graph
        self._graph.set_ef(1)
        self._node_count = int(graph.get_current_count())
        self._reachable_max = self._node_count

    @property
    def node_count(self) -> int:
        """Number of vectors."""
        return self._node_count

    @property
    def vectors(self) -> None:
        """None: hnswlib only gives copies."""

    def nearest(self, query: FloatArray, count: int, ef: int) -> IntArray | None:  # (dim,) -> (count,)
        """Return `count` nodes near the query, nearest first, or None where the graph does not reach that many."""
        while count <= (explored := min(max(count, ef), self._reachable_max)):
            try:
                nodes, _distances = self._graph.knn_query(query, k=explored, num_threads=1)
            except RuntimeError:
                fewer = max(count, explored // 2) if explored > count else count - 1
                self._reachable_max = min(self._reachable_max, fewer)
            else:
                return np.asarray(nodes[0, :count], dtype=np.int64)
        return None

    def save(self, path: Path) -> None:
        """Write the graph; raise OSError if the disk did not take every byte."""
        self._graph.save_index(str(path))
        check_size(path, int(self._graph.index_file_size()))


class HnswlibEngine:
    """Builds and loads hnswlib graphs; see `SegmentEngine`."""

    name = "hnswlib"

    def __init__(self, settings: IndexSettings) -> None:
        self._settings = settings

    @property
    def parameters(self) -> Mapping[str, int]:
        """What graphs are built with."""
        return parameters_of(self._settings)

    def build(self, vectors: FloatArray, cancelled: Callable[[], bool]) -> HnswlibSegment:  # (nodes, dim)
        """Build a graph of distinct unit vectors."""
        graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
        graph.init_index(
            max_elements=len(vectors),
            M=self._settings.graph_links,
            ef_construction=self._settings.ef_construction,
            random_seed=_RANDOM_SEED,
        )
        return self._insert(graph, 0, vectors, cancelled)

    def extend(
        self, path: Path, held: int, vectors: FloatArray, cancelled: Callable[[], bool]
    ) -> HnswlibSegment:  # (nodes, dim)
        """Load a copy with room for all vectors, then insert those it lacks."""
        graph = _load(path, node_count=held, dim=vectors.shape[1], capacity=len(vectors))
        return self._insert(graph, held, vectors, cancelled)

    def load(self, path: Path, *, node_count: int, dim: int) -> HnswlibSegment:
        """Load a graph whose file has passed its digest check."""
        return HnswlibSegment(_load(path, node_count=node_count, dim=dim, capacity=node_count))

    def _insert(
        self,
        graph: Any,  # noqa: ANN401 - hnswlib has no types
        held: int,
        vectors: FloatArray,
        cancelled: Callable[[], bool],
    ) -> HnswlibSegment:
        for first, part in parts_to_insert(held, vectors, cancelled):
            nodes = np.arange(first, first + len(part))
            graph.add_items(part, nodes, num_threads=self._settings.build_threads)
        return HnswlibSegment(graph)


def _load(path: Path, *, node_count: int, dim: int, capacity: int) -> Any:  # noqa: ANN401 - hnswlib has no types
    _check_header(path, node_count=node_count, dim=dim)
    graph = hnswlib.Index(space="ip", dim=dim)
    try:
        graph.load_index(str(path), max_elements=capacity)
    except RuntimeError as error:
        raise DataLossError(f"{path} is not a graph that hnswlib can read ({error})") from error
    return graph


def _check_header(path: Path, *, node_count: int, dim: int) -> None:
    with path.open("rb") as stream:
        header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise DataLossError(f"{path} is not a graph that hnswlib can read (it ends within its header)")
    level_0, _capacity, count, node_bytes, label_at, vector_at, _top, entry = _HEADER.unpack(header)[:8]
    links, links_0, links_wanted = _HEADER.unpack(header)[8:11]
    # A foreign file fails one of these: the link bounds, the offsets and the size of a node follow from one another.
    if (
        (level_0, vector_at, node_bytes) != (0, 4 * links_0 + 4, label_at + 8)
        or (links, links_0) != (links_wanted, 2 * links_wanted)
        or entry >= count
    ):
        raise DataLossError(f"{path} is not a graph that hnswlib can read (its header is not one of hnswlib's)")
    if label_at - vector_at != 4 * dim:
        raise DataLossError(f"{path} does not hold vectors of {dim} components as its manifest says")
    if count != node_count:
        raise DataLossError(f"{path} holds {count} vectors but its manifest says {node_count}")
    if path.stat().st_size < _HEADER.size + node_bytes * count:
        raise DataLossError(f"{path} is not a graph that hnswlib can read (it is shorter than its header says)")
