"""Segments as usearch graphs; knows nothing of items or of how files are published.

What usearch does that its caller must know:

- `expansion_search`, its `ef`, belongs to the index. A query explores the larger of it and the neighbours it asks for:
  it is set to 1, once, and each query asks for as many as it wants explored.
- Where fewer neighbours are reached than wanted, the answer is shorter.
- An index takes dimension and scalar from the file it loads but keeps its own metric, whatever the file says: the
  file's header is compared first.
- A write that fails raises, the closing of the file does not: its size is compared with what the graph needs.
- Loading detects truncated and foreign files, but no flipped bit: the caller has checked the file's digest.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from usearch.index import Index, MetricKind, ScalarKind

from clip_search_server.errors import DataLossError
from clip_search_server.index.building import check_size, parameters_of, parts_to_insert
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.types import FloatArray, IntArray


class UsearchSegment:
    """A finished usearch graph; see `Segment`."""

    def __init__(self, graph: Any) -> None:  # noqa: ANN401 - an Index; usearch is checked untyped
        self._graph = graph
        self._node_count = len(graph)

    @property
    def node_count(self) -> int:
        """Number of vectors."""
        return self._node_count

    @property
    def vectors(self) -> None:
        """None: usearch only gives copies."""

    def nearest(self, query: FloatArray, count: int, ef: int) -> IntArray | None:  # (dim,) -> (count,)
        """Return `count` nodes near the query, nearest first, or None where the graph does not reach that many."""
        if count > self._node_count:
            return None
        found = self._graph.search(query, min(max(count, ef), self._node_count), threads=1).keys
        return found[:count].astype(np.int64) if len(found) >= count else None

    def save(self, path: Path) -> None:
        """Write the graph; raise OSError if the disk did not take every byte."""
        try:
            self._graph.save(path)
        except RuntimeError as error:
            raise OSError(f"{path} cannot be written ({error}); is the disk full?") from error
        check_size(path, int(self._graph.serialized_length))


class UsearchEngine:
    """Builds and loads usearch graphs; see `SegmentEngine`."""

    name = "usearch"

    def __init__(self, settings: IndexSettings) -> None:
        self._settings = settings

    @property
    def parameters(self) -> Mapping[str, int]:
        """What graphs are built with."""
        return parameters_of(self._settings)

    def build(self, vectors: FloatArray, cancelled: Callable[[], bool]) -> UsearchSegment:  # (nodes, dim)
        """Build a graph of distinct unit vectors."""
        return self._insert(self._empty(vectors.shape[1]), vectors, cancelled)

    def extend(
        self, path: Path, held: int, vectors: FloatArray, cancelled: Callable[[], bool]
    ) -> UsearchSegment:  # (nodes, dim)
        """Load a copy, then insert the vectors it lacks."""
        return self._insert(self._load(path, node_count=held, dim=vectors.shape[1]), vectors, cancelled)

    def load(self, path: Path, *, node_count: int, dim: int) -> UsearchSegment:
        """Load a graph whose file has passed its digest check."""
        return UsearchSegment(self._load(path, node_count=node_count, dim=dim))

    def _empty(self, dim: int) -> Any:  # noqa: ANN401 - an Index
        return Index(
            ndim=dim,
            metric=MetricKind.IP,
            dtype=ScalarKind.F32,
            connectivity=self._settings.graph_links,
            expansion_add=self._settings.ef_construction,
            expansion_search=1,
            enable_key_lookups=False,
        )

    def _insert(
        self,
        graph: Any,  # noqa: ANN401 - an Index
        vectors: FloatArray,
        cancelled: Callable[[], bool],
    ) -> UsearchSegment:
        for first, part in parts_to_insert(len(graph), vectors, cancelled):
            graph.add(np.arange(first, first + len(part), dtype=np.uint64), part, threads=self._settings.build_threads)
        return UsearchSegment(graph)

    def _load(self, path: Path, *, node_count: int, dim: int) -> Any:  # noqa: ANN401 - an Index
        graph = self._empty(dim)
        try:
            header = Index.metadata(path)
            if header is None:
                raise DataLossError(f"{path} is missing")
            if (header["dimensions"], header["kind_metric"], header["kind_scalar"]) != (
                dim,
                MetricKind.IP,
                ScalarKind.F32,
            ):
                raise DataLossError(f"{path} does not hold vectors of {dim} components, compared by inner product")
            graph.load(path)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise DataLossError(f"{path} is not a graph that usearch can read ({error})") from error
        if len(graph) != node_count:
            raise DataLossError(f"{path} holds {len(graph)} vectors but its manifest says {node_count}")
        return graph
