"""Figures of retrieval with their intervals, from ranks; knows nothing of vectors and servers."""

from collections.abc import Mapping

import numpy as np

from clip_search_evaluation.figures import RECALL_RANKS, RetrievalFigures, SearchFigures
from clip_search_evaluation.metrics import retrieval as metrics
from clip_search_evaluation.metrics.arrays import FloatArray, IntArray
from clip_search_evaluation.metrics.bootstrap import Estimate, estimate_all
from clip_search_evaluation.searching import NOT_ASKED, Searched

__all__ = ["retrieval_figures", "search_figures"]


def retrieval_figures(ranks: IntArray, candidates: int, groups: IntArray | None = None) -> RetrievalFigures:
    """Return the figures of ranks (queries,).

    Args:
        ranks: of the first right candidate of each query.
        candidates: how many there were.
        groups: (queries,), which queries are drawn together, see `metrics/bootstrap.py`; each on its own by default.
    """

    def figures(rows: IntArray) -> FloatArray:
        drawn = ranks[rows]
        recalls = [metrics.recall_at(drawn, k) for k in RECALL_RANKS]
        return np.array([*recalls, metrics.median_rank(drawn), metrics.mean_reciprocal_rank(drawn)])

    *recall, median_rank, mean_reciprocal_rank = estimate_all(
        figures, np.arange(len(ranks), dtype=np.int64) if groups is None else groups
    )
    return RetrievalFigures(len(ranks), candidates, _by_rank(recall), median_rank, mean_reciprocal_rank)


def search_figures(collection: str, searched: Searched, groups: IntArray) -> SearchFigures:
    """Return the figures of searches in a collection; see `retrieval_figures` for `groups` (texts,)."""
    asked = searched.ranks != NOT_ASKED
    ranks = searched.ranks[asked]

    def figures(rows: IntArray) -> FloatArray:
        return np.array([metrics.recall_at(ranks[rows], k) for k in RECALL_RANKS])

    recall = estimate_all(figures, groups[asked])
    return SearchFigures(collection, searched.items, searched.pictures, len(ranks), _by_rank(recall))


def _by_rank(recall: list[Estimate]) -> Mapping[int, Estimate]:
    return dict(zip(RECALL_RANKS, recall, strict=True))
