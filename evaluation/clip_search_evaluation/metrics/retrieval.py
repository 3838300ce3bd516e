"""Figures of retrieval, made of the rank of each query's first right candidate; knows nothing of how ranks come about.

Recall at k and the median rank are those of Karpathy and Fei-Fei (2015, arXiv:1412.2306, section 4.2): the share of
queries of which a right candidate is among the first k, and the median rank of the first right one. The CLIP paper's
tables of retrieval (Radford et al. 2021, arXiv:2103.00020, appendix E.1) are of the same kind. The mean reciprocal rank
is that of Voorhees, The TREC-8 Question Answering Track Report, 1999.
"""

import numpy as np

from clip_search_evaluation.metrics.arrays import FloatArray, IntArray

__all__ = ["hits_at", "mean_reciprocal_rank", "median_rank", "recall_at"]


def hits_at(ranks: IntArray, k: int) -> FloatArray:
    """Return (queries,) 1 where a right candidate is among the first `k`, else 0."""
    return (ranks <= k).astype(np.float64)


def recall_at(ranks: IntArray, k: int) -> float:
    """Return the share of queries with a right candidate among the first `k`."""
    return float(hits_at(ranks, k).mean())


def median_rank(ranks: IntArray) -> float:
    """Return the median of ranks (queries,); of an even number, the mean of the two in the middle."""
    return float(np.median(ranks))


def mean_reciprocal_rank(ranks: IntArray) -> float:
    """Return the mean of 1 / rank over ranks (queries,)."""
    return float((1 / ranks).mean())
