"""Segments as FAISS HNSW graphs; knows nothing of items or of how files are published.

What FAISS does that its caller must know:

- Searching, adding and loading release the interpreter's lock. `ef` is an argument of each search.
- Where fewer neighbours are reached than wanted, the rest of the answer is -1.
- Adding uses OpenMP with as many threads as the *calling thread* has set; a search for one query uses none. Threads
  that wait for others spin, which takes from searches what it costs: half of the processor time of a build on a busy
  machine. They are told to sleep instead, which OpenMP heeds only before it is loaded.
- Saving by path checks each write but not the closing of the file, where buffered bytes fail: the bytes go through a
  Python file instead, whose errors all show. That takes the lock for a piece at a time only.
- The arrays of a graph double when they grow, and keep what they do not need: room for all vectors is made first.
- Loading detects truncated and foreign files, but no flipped bit: the caller has checked the file's digest.
"""

import ctypes
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clip_search_server.errors import DataLossError
from clip_search_server.index.building import parameters_of, parts_to_insert
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.types import FloatArray, IntArray

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import faiss

_WRITTEN_AT_ONCE_BYTES = 1 << 20
_LINKS_ABOVE = 2  # of a node, on average, on the layers above the lowest, and a little more
# How the file of an HNSW graph over plain vectors begins: other kinds of index are not even parsed.
_MAGIC = b"IHNf"


class FaissSegment:
    """A finished FAISS graph; see `Segment`."""

    def __init__(self, graph: Any) -> None:  # noqa: ANN401 - an IndexHNSWFlat; FAISS is checked untyped
        self._graph = graph
        self._node_count = int(graph.ntotal)
        self._vectors = _vectors_of(graph)

    @property
    def node_count(self) -> int:
        """Number of vectors."""
        return self._node_count

    @property
    def vectors(self) -> FloatArray:  # (nodes, dim)
        """The graph's own vectors."""
        return self._vectors

    def nearest(self, query: FloatArray, count: int, ef: int) -> IntArray | None:  # (dim,) -> (count,)
        """Return `count` nodes near the query, nearest first, or None where the graph does not reach that many."""
        if count > self._node_count:
            return None
        parameters = faiss.SearchParametersHNSW(efSearch=max(count, ef))
        _cosines, found = self._graph.search(query[np.newaxis], count, params=parameters)
        nodes: IntArray = found[0]
        return nodes if nodes[-1] >= 0 else None

    def save(self, path: Path) -> None:
        """Write the graph; raise OSError if the disk did not take every byte."""
        with path.open("wb") as stream:
            faiss.write_index(self._graph, faiss.PyCallbackIOWriter(stream.write, _WRITTEN_AT_ONCE_BYTES))


class FaissEngine:
    """Builds and loads FAISS graphs; see `SegmentEngine`."""

    name = "faiss"

    def __init__(self, settings: IndexSettings) -> None:
        self._settings = settings

    @property
    def parameters(self) -> Mapping[str, int]:
        """What graphs are built with."""
        return parameters_of(self._settings)

    def build(self, vectors: FloatArray, cancelled: Callable[[], bool]) -> FaissSegment:  # (nodes, dim)
        """Build a graph of distinct unit vectors."""
        graph = faiss.IndexHNSWFlat(vectors.shape[1], self._settings.graph_links, faiss.METRIC_INNER_PRODUCT)
        return self._insert(graph, vectors, cancelled)

    def extend(
        self, path: Path, held: int, vectors: FloatArray, cancelled: Callable[[], bool]
    ) -> FaissSegment:  # (nodes, dim)
        """Load a copy, then insert the vectors it lacks."""
        return self._insert(_load(path, node_count=held, dim=vectors.shape[1]), vectors, cancelled)

    def load(self, path: Path, *, node_count: int, dim: int) -> FaissSegment:
        """Load a graph whose file has passed its digest check."""
        return FaissSegment(_load(path, node_count=node_count, dim=dim))

    def _insert(
        self,
        graph: Any,  # noqa: ANN401 - an IndexHNSWFlat
        vectors: FloatArray,
        cancelled: Callable[[], bool],
    ) -> FaissSegment:
        faiss.omp_set_num_threads(self._settings.build_threads)
        graph.hnsw.efConstruction = self._settings.ef_construction
        _make_room(graph, len(vectors))
        for _first, part in parts_to_insert(graph.ntotal, vectors, cancelled):
            graph.add(part)
        return FaissSegment(graph)


def _make_room(graph: Any, count: int) -> None:  # noqa: ANN401 - an IndexHNSWFlat
    """Give the graph's arrays room for `count` vectors: enlarged and made small again, they keep it."""
    storage = faiss.downcast_index(graph.storage)
    codes, neighbours = storage.codes, graph.hnsw.neighbors
    # On the lowest layer a node has twice as many links as above, where few nodes are.
    links = graph.hnsw.nb_neighbors(0) + _LINKS_ABOVE
    for array, held, wanted in (
        (codes, codes.size(), count * storage.code_size),
        (neighbours, neighbours.size(), count * links),
    ):
        if wanted > held:
            array.resize(wanted)
            array.resize(held)


def _vectors_of(graph: Any) -> FloatArray:  # noqa: ANN401 - an IndexHNSWFlat
    """Return the vectors of a graph that does not change any more, as they lie in its memory, (nodes, dim)."""
    storage = faiss.downcast_index(graph.storage)
    memory = (ctypes.c_float * (graph.ntotal * graph.d)).from_address(int(storage.get_xb()))
    memory.graph = graph  # It lives as long as the memory is referred to.
    vectors: FloatArray = np.frombuffer(memory, dtype=np.float32).reshape(graph.ntotal, graph.d)
    vectors.flags.writeable = False
    return vectors


def _load(path: Path, *, node_count: int, dim: int) -> Any:  # noqa: ANN401 - an IndexHNSWFlat
    with path.open("rb") as stream:
        magic = stream.read(len(_MAGIC))
    if magic != _MAGIC:
        raise DataLossError(f"{path} is not a graph that FAISS can read (it begins with {magic!r})")
    try:
        graph = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        raise DataLossError(f"{path} is not a graph that FAISS can read ({error})") from error
    if graph.metric_type != faiss.METRIC_INNER_PRODUCT or graph.d != dim:
        raise DataLossError(f"{path} does not hold vectors of {dim} components, compared by inner product")
    if graph.ntotal != node_count:
        raise DataLossError(f"{path} holds {graph.ntotal} vectors but its manifest says {node_count}")
    return graph
