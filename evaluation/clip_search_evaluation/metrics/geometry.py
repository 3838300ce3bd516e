"""How two kinds of vectors share one space; knows nothing of what they stand for.

The modality gap is the distance between the means of both kinds: Liang et al., Mind the Gap, NeurIPS 2022
(arXiv:2203.02053), section 2. Alignment is the mean squared distance of pairs that belong together, uniformity the
logarithm of the mean of exp(-2 · squared distance) over pairs of one kind: Wang and Isola, Understanding Contrastive
Representation Learning through Alignment and Uniformity, ICML 2020 (arXiv:2005.10242), section 4; lower is better in
both.
"""

import numpy as np

from clip_search_evaluation.metrics.arrays import FloatArray

__all__ = ["alignment", "modality_gap", "uniformity"]


def modality_gap(one: FloatArray, other: FloatArray) -> float:
    """Return the distance between the means of vectors (one, dim) and (other, dim)."""
    return float(np.linalg.norm(one.mean(axis=0, dtype=np.float64) - other.mean(axis=0, dtype=np.float64)))


def alignment(one: FloatArray, other: FloatArray) -> float:
    """Return the mean squared distance of vectors (pairs, dim) from those of the same row in (pairs, dim)."""
    return float(((one.astype(np.float64) - other) ** 2).sum(axis=1).mean())


def uniformity(vectors: FloatArray) -> float:
    """Return log mean exp(-2 |x - y|²) over all pairs of different rows of (vectors, dim), of unit length."""
    count = len(vectors)
    exact = vectors.astype(np.float64)
    squared = np.maximum(2 - 2 * (exact @ exact.T), 0)  # (vectors, vectors)
    pairs = squared[np.triu_indices(count, k=1)]
    return float(np.log(np.exp(-2 * pairs).mean()))
