"""Segments as hnswlib graphs; knows nothing of items or of how files are published.

hnswlib 0.8.0 leaves a good deal to its caller. What this module does about each point:

- Adding while querying corrupts: a graph is searched only after its last insertion, and never changed again.
- `ef` belongs to the index and falls back to 10 on loading: it is set once, before the segment is handed out. (A query
  for more than `ef` neighbours explores as many as it asks for.)
- Asking for more neighbours than the search reaches raises and leaks the result buffers: the number is limited to the
  node count, and after one such failure no query asks this segment for as many again.
- Saving reports no error at all, be the disk full or the folder missing: the file's size is compared with what the
  graph says it needs.
- Many equal vectors make items unreachable: nodes are distinct vectors.
- Deleting, replacing and filtering inside the graph each have defects of their own: none of them is used.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np

from clip_search_server.errors import DataLossError
from clip_search_server.index.segment import BuildCancelledError
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.types import FloatArray, IntArray

_INSERTED_AT_ONCE = 2048  # between two looks at `cancelled`
_RANDOM_SEED = 100


class HnswSegment:
    """A finished hnswlib graph; see `Segment`."""

    def __init__(self, graph: Any, *, ef_search: int) -> None:  # noqa: ANN401 - hnswlib has no types
        self._graph = graph
        self._graph.set_ef(ef_search)
        self._node_count = int(graph.get_current_count())
        self._reachable_max = self._node_count

    @property
    def node_count(self) -> int:
        """Number of vectors."""
        return self._node_count

    def nearest(self, query: FloatArray, count: int) -> IntArray | None:  # (dim,) -> (count,)
        """Return `count` nodes near the query, nearest first, or None where the graph does not reach that many."""
        if count > self._reachable_max:
            return None
        try:
            nodes, _distances = self._graph.knn_query(query, k=count, num_threads=1)
        except RuntimeError:
            self._reachable_max = min(self._reachable_max, count - 1)
            return None
        return np.asarray(nodes[0], dtype=np.int64)

    def save(self, path: Path) -> None:
        """Write the graph; raise OSError if the disk did not take every byte."""
        self._graph.save_index(str(path))
        wanted = int(self._graph.index_file_size())
        written = path.stat().st_size if path.exists() else 0
        if written != wanted:
            raise OSError(f"{path}: {written} of {wanted} bytes could be written; is the disk full?")


class HnswEngine:
    """Builds and loads hnswlib graphs; see `SegmentEngine`."""

    name = "hnswlib"

    def __init__(self, settings: IndexSettings) -> None:
        self._settings = settings

    @property
    def parameters(self) -> Mapping[str, int]:
        """What graphs are built with."""
        return {"graph_links": self._settings.graph_links, "ef_construction": self._settings.ef_construction}

    def build(self, vectors: FloatArray, cancelled: Callable[[], bool]) -> HnswSegment:  # (nodes, dim)
        """Build a graph of distinct unit vectors."""
        graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
        graph.init_index(
            max_elements=len(vectors),
            M=self._settings.graph_links,
            ef_construction=self._settings.ef_construction,
            random_seed=_RANDOM_SEED,
        )
        for start in range(0, len(vectors), _INSERTED_AT_ONCE):
            if cancelled():
                raise BuildCancelledError
            part = vectors[start : start + _INSERTED_AT_ONCE]
            nodes = np.arange(start, start + len(part))
            graph.add_items(part, nodes, num_threads=self._settings.build_threads)
        return HnswSegment(graph, ef_search=self._settings.ef_search)

    def load(self, path: Path, *, node_count: int, dim: int) -> HnswSegment:
        """Load a graph whose file has passed its digest check."""
        graph = hnswlib.Index(space="ip", dim=dim)
        try:
            graph.load_index(str(path))
        except RuntimeError as error:
            raise DataLossError(f"{path} is not a graph that hnswlib can read ({error})") from error
        segment = HnswSegment(graph, ef_search=self._settings.ef_search)
        if segment.node_count != node_count:
            raise DataLossError(f"{path} holds {segment.node_count} vectors but its manifest says {node_count}")
        return segment
