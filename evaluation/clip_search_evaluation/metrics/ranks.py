"""Where the first right candidate of each query comes; knows nothing of what queries and candidates are.

The rank of a query is 1 plus the number of wrong candidates that score at least as high as its best right one. So ties
count against: a model that gives everything one score finds nothing, whatever the order of the candidates. (McSherry
and Najork, Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores, ECIR 2008,
show what arbitrary orders do to figures.) Right candidates do not stand in each other's way.
"""

from dataclasses import dataclass

import numpy as np

from clip_search_evaluation.metrics.arrays import BoolArray, FloatArray, IntArray

__all__ = ["Ranking", "rank_of_scores", "rank_queries"]

_QUERIES_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """How queries fared.

    Attributes:
        ranks: (queries,), of the first right candidate, from 1.
        first: (queries,), the candidate that comes first.
        best_right: (queries,), the right candidate that comes first among the right ones.
    """

    ranks: IntArray
    first: IntArray
    best_right: IntArray


def rank_queries(queries: FloatArray, candidates: FloatArray, pairs: IntArray) -> Ranking:
    """Rank all candidates for each query by cosine.

    Args:
        queries: (queries, dim), of unit length.
        candidates: (candidates, dim), of unit length.
        pairs: (pairs, 2), rows of a query and of a candidate that is right for it; each query has one at least.
    """
    order = np.argsort(pairs[:, 0], kind="stable")
    pairs = pairs[order]
    parts = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        end = min(start + _QUERIES_AT_ONCE, len(queries))
        low, high = np.searchsorted(pairs[:, 0], [start, end])
        part = pairs[low:high] - np.array([start, 0])
        parts.append(rank_of_scores(queries[start:end] @ candidates.T, part))
    return Ranking(
        ranks=np.concatenate([part.ranks for part in parts]),
        first=np.concatenate([part.first for part in parts]),
        best_right=np.concatenate([part.best_right for part in parts]),
    )


def rank_of_scores(scores: FloatArray, pairs: IntArray) -> Ranking:
    """Rank candidates by scores (queries, candidates) that are known already; see `rank_queries` for `pairs`."""
    right = np.zeros(scores.shape, bool)  # (queries, candidates)
    right[pairs[:, 0], pairs[:, 1]] = True
    if not right.any(axis=1).all():
        raise ValueError("a query without a right candidate has no rank. This is a bug.")
    right_scores = np.where(right, scores, -np.inf)
    best = right_scores.max(axis=1, keepdims=True)  # (queries, 1)
    return Ranking(
        ranks=1 + ((scores >= best) & ~right).sum(axis=1, dtype=np.int64),
        first=_first(scores, right),
        best_right=right_scores.argmax(axis=1).astype(np.int64),
    )


def _first(scores: FloatArray, right: BoolArray) -> IntArray:
    """Return the candidate in the first place, a wrong one where a wrong and a right one share it."""
    top = scores >= scores.max(axis=1, keepdims=True)  # (queries, candidates)
    wrong_top = top & ~right
    first: IntArray = np.where(wrong_top.any(axis=1), wrong_top.argmax(axis=1), top.argmax(axis=1))
    return first
