"""Intervals by resampling: how far a figure would move had other data been drawn; knows nothing of the figures.

The percentile bootstrap of Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Observations that
belong together (captions of one picture) are drawn together: the cluster bootstrap of Field and Welsh, Bootstrapping
Clustered Data, 2007. For two models on the same data the same draws serve both, and the interval is of the difference,
as in Koehn, Statistical Significance Tests for Machine Translation Evaluation, 2004.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from clip_search_evaluation.metrics.arrays import FloatArray, IntArray

__all__ = ["LEVEL", "Estimate", "estimate_all", "resamples_of"]

LEVEL = 0.95
_RESAMPLES = 1_000
_SEED = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the interval that holds it with a confidence of 95 %."""

    value: float
    low: float
    high: float


def estimate_all(
    statistic: Callable[[IntArray], FloatArray],
    groups: IntArray,
    *,
    resamples: int = _RESAMPLES,
    seed: int = _SEED,
) -> list[Estimate]:
    """Compute figures with their intervals.

    Args:
        statistic: given rows of observations (rows,), with repetitions, returns the figures (figures,).
        groups: (observations,), which observations belong together, as any numbers.
        resamples: how often data are drawn anew.
        seed: of the draws; the same for figures that are compared.
    """
    values = statistic(np.arange(len(groups), dtype=np.int64))  # (figures,)
    drawn = np.stack([statistic(rows) for rows in resamples_of(groups, resamples, seed)])  # (resamples, figures)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    lows, highs = np.quantile(drawn, tails, axis=0)
    return [Estimate(*map(float, figures)) for figures in zip(values, lows, highs, strict=True)]


def resamples_of(groups: IntArray, resamples: int, seed: int) -> Iterator[IntArray]:
    """Draw as many groups as there are, with replacement, `resamples` times; give the rows of all their members."""
    random = np.random.default_rng(seed)
    _, group_of = np.unique(groups, return_inverse=True)
    order = np.argsort(group_of, kind="stable").astype(np.int64)  # rows, group by group
    sizes = np.bincount(group_of)
    starts = np.cumsum(sizes) - sizes
    for _ in range(resamples):
        drawn = random.integers(0, len(sizes), len(sizes))
        ends = np.cumsum(sizes[drawn])
        within = np.arange(ends[-1]) - np.repeat(ends - sizes[drawn], sizes[drawn])
        yield order[np.repeat(starts[drawn], sizes[drawn]) + within]
