"""How far a search of a segment must look: the smallest ef that finds what it should; knows nothing of any engine.

Samples are searched in the graph and compared with a scan. There are two kinds: vectors of the segment itself (each
without itself, which is found too easily), and queries that people asked lately. Texts lie apart from pictures in
CLIP's space and are harder to answer, so each kind has to reach the target by itself. Later queries may fare a little
worse than the samples: half of what the target lets a search miss is kept in reserve.

The cost is bounded: at most `_COMPARISONS_MAX` vectors are compared for the truth (some seconds on one core), and each
sample is searched a handful of times. It can be given up in between.
"""

from collections.abc import Callable

import numpy as np

from clip_search_server.index.entries import Tuning
from clip_search_server.index.segment import BuildCancelledError, Segment
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.types import FloatArray, IntArray

__all__ = ["QuerySource", "is_tuned", "is_widest", "no_queries", "recall_at", "tune"]

# Returns queries asked lately, newest last, float32 (queries, dim) of unit length; possibly none.
QuerySource = Callable[[], FloatArray]

_NEIGHBOURS = 10

# The last steps are for texts in large graphs; where a scan costs less than so wide a walk, sealed.py scans.
_EF_LADDER = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
_SAMPLES_MAX = 100  # of each kind
_COMPARISONS_MAX = 100_000_000
_RESERVED_SHARE = 0.5
_BLOCK_BYTES = 1 << 20  # stays in a processor's cache while all queries are compared with it


def no_queries() -> FloatArray:
    """Return no queries: the hook of those who keep none."""
    return np.empty((0, 0), dtype=np.float32)


def _never() -> bool:
    return False


def tune(
    segment: Segment,
    vectors: FloatArray,
    queries: FloatArray,
    settings: IndexSettings,
    *,
    cancelled: Callable[[], bool] = _never,
) -> Tuning:
    """Return the smallest ef of a ladder with which samples reach the target, reserve included; the last if none does.

    Args:
        segment: is searched, with several values of ef.
        vectors: float32 (nodes, dim), what it was built from.
        queries: float32 (queries, dim) of unit length, newest last; empty where none are known.
        settings: `recall_target` is to be reached, with no less than `ef_min`.
        cancelled: asked between the pieces of the work.

    Raises:
        BuildCancelledError: soon after `cancelled()`.
    """
    ladder = [settings.ef_min, *(ef for ef in _EF_LADDER if ef > settings.ef_min)]
    recall_target = settings.recall_target
    samples_max = max(1, min(_SAMPLES_MAX, _COMPARISONS_MAX // (2 * len(vectors))))
    samples = [_Sample.of_nodes(vectors, samples_max, cancelled)]
    if len(queries):
        samples.append(_Sample.of_queries(vectors, queries[-samples_max:], cancelled))
    goal = recall_target + _RESERVED_SHARE * (1.0 - recall_target)
    low, high = 0, len(ladder) - 1
    recalls: dict[int, float] = {}
    while low < high:  # Invariant: below `low` the goal is missed; at `high` it is met, or there is nothing above.
        middle = (low + high) // 2
        recalls[middle] = min(sample.recall(segment, ladder[middle]) for sample in samples)
        if recalls[middle] >= goal:
            high = middle
        else:
            low = middle + 1
    if low not in recalls:
        recalls[low] = min(sample.recall(segment, ladder[low]) for sample in samples)
    return Tuning(ladder[low], round(recalls[low], 4), recall_target)


def recall_at(segment: Segment, vectors: FloatArray, queries: FloatArray, ef: int) -> float:
    """Return the share of the true ten nearest of all queries that the graph finds with `ef`."""
    return _Sample.of_queries(vectors, queries, _never).recall(segment, ef)


def is_tuned(tuning: Tuning | None, settings: IndexSettings) -> bool:
    """Tell whether a recorded tuning is what `tune` would be asked for."""
    return tuning is not None and tuning.recall_target == settings.recall_target and tuning.ef >= settings.ef_min


def is_widest(ef: int) -> bool:
    """Tell whether `tune` would never choose more than this."""
    return ef >= _EF_LADDER[-1]


class _Sample:
    """Queries, float32 (queries, dim), the nodes they stand for (-1 for none), and the true neighbours of each."""

    def __init__(
        self, queries: FloatArray, own_nodes: IntArray, truth: IntArray, cancelled: Callable[[], bool]
    ) -> None:
        self._queries = queries
        self._own_nodes = own_nodes  # (queries,)
        self._truth = truth  # (queries, at most _NEIGHBOURS + 1)
        self._cancelled = cancelled

    @classmethod
    def of_nodes(cls, vectors: FloatArray, count: int, cancelled: Callable[[], bool]) -> "_Sample":
        count = min(count, len(vectors))
        nodes = np.sort(np.random.default_rng(0).choice(len(vectors), size=count, replace=False))
        queries = np.asarray(vectors[nodes])
        return cls(queries, nodes, _true_neighbours(vectors, queries, _NEIGHBOURS + 1, cancelled), cancelled)

    @classmethod
    def of_queries(cls, vectors: FloatArray, queries: FloatArray, cancelled: Callable[[], bool]) -> "_Sample":
        none = np.full(len(queries), -1, dtype=np.int64)
        return cls(queries, none, _true_neighbours(vectors, queries, _NEIGHBOURS, cancelled), cancelled)

    def recall(self, segment: Segment, ef: int) -> float:
        found = wanted = 0
        for query, own, truth in zip(self._queries, self._own_nodes, self._truth, strict=True):
            _go_on_unless(self._cancelled)
            true = set(truth.tolist()) - {int(own)}
            nodes = segment.nearest(query, len(truth), ef)
            wanted += len(true)
            # Where the graph cannot answer, a search scans (sealed.py) and finds them all.
            found += len(true if nodes is None else true & set(nodes.tolist()))
        return found / wanted if wanted else 1.0


def _go_on_unless(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise BuildCancelledError


def _true_neighbours(vectors: FloatArray, queries: FloatArray, count: int, cancelled: Callable[[], bool]) -> IntArray:
    """Return the nodes of highest cosine for each query, int64 (queries, at most count), in no order."""
    nodes = np.empty((len(queries), 0), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    vectors = np.asarray(vectors)
    rows_at_once = max(1, _BLOCK_BYTES // vectors[:1].nbytes)
    for start in range(0, len(vectors), rows_at_once):
        _go_on_unless(cancelled)
        block = vectors[start : start + rows_at_once]
        block_nodes = np.broadcast_to(np.arange(start, start + len(block)), (len(queries), len(block)))
        # On one thread, like `scoring.scan`.
        scores = np.concatenate([scores, np.vecdot(queries[:, np.newaxis], block)], axis=1)
        nodes = np.concatenate([nodes, block_nodes], axis=1)
        if scores.shape[1] > count:
            best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
            scores, nodes = np.take_along_axis(scores, best, 1), np.take_along_axis(nodes, best, 1)
    return nodes
