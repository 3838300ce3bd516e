"""How pictures and texts share one space: the gap between them, and how far matching pairs stand out."""

import numpy as np

from clip_search_evaluation.figures import Histogram, SpaceFigures
from clip_search_evaluation.metrics.arrays import FloatArray, IntArray
from clip_search_evaluation.metrics.auroc import auroc
from clip_search_evaluation.metrics.geometry import alignment, modality_gap, uniformity

__all__ = ["space_figures"]

_OTHER_PAIRS_MAX = 200_000
_UNIFORMITY_VECTORS_MAX = 2_000
_BINS = 50
_SEED = 0


def space_figures(pictures: FloatArray, texts: FloatArray, pairs: IntArray) -> SpaceFigures | None:
    """Return the figures of the space; None where no pair of a picture and a text is without a match.

    Args:
        pictures: (pictures, dim), of unit length.
        texts: (texts, dim), of unit length.
        pairs: (pairs, 2), rows of a text and of a picture that belong together.
    """
    random = np.random.default_rng(_SEED)
    other = _other_pairs(len(texts), len(pictures), pairs, random)
    if not len(other):
        return None
    matching_cosines = _cosines(texts, pictures, pairs)
    other_cosines = _cosines(texts, pictures, other)
    low = min(matching_cosines.min(), other_cosines.min())
    high = max(matching_cosines.max(), other_cosines.max())
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    return SpaceFigures(
        gap=modality_gap(pictures, texts),
        alignment=alignment(texts[pairs[:, 0]], pictures[pairs[:, 1]]),
        picture_uniformity=uniformity(_sample(pictures, random)),
        text_uniformity=uniformity(_sample(texts, random)),
        auroc=auroc(matching_cosines, other_cosines),
        matching=_histogram(matching_cosines, edges),
        other=_histogram(other_cosines, edges),
        matching_mean=float(matching_cosines.mean()),
        other_mean=float(other_cosines.mean()),
    )


def _other_pairs(texts: int, pictures: int, pairs: IntArray, random: np.random.Generator) -> IntArray:
    """Return pairs that do not belong together: all where they are few, else some drawn at random."""
    matching = pairs[:, 0] * pictures + pairs[:, 1]
    if texts * pictures <= _OTHER_PAIRS_MAX:
        numbers = np.arange(texts * pictures, dtype=np.int64)
    else:
        numbers = random.integers(0, texts * pictures, _OTHER_PAIRS_MAX)
    numbers = numbers[~np.isin(numbers, matching)]
    return np.stack(np.divmod(numbers, pictures), axis=1)


def _cosines(texts: FloatArray, pictures: FloatArray, pairs: IntArray) -> FloatArray:
    cosines: FloatArray = np.einsum("nd,nd->n", texts[pairs[:, 0]], pictures[pairs[:, 1]], dtype=np.float64)
    return cosines


def _sample(vectors: FloatArray, random: np.random.Generator) -> FloatArray:
    if len(vectors) <= _UNIFORMITY_VECTORS_MAX:
        return vectors
    return vectors[random.choice(len(vectors), _UNIFORMITY_VECTORS_MAX, replace=False)]


def _histogram(values: FloatArray, edges: FloatArray) -> Histogram:
    counts, _ = np.histogram(values, edges)
    return Histogram(edges, counts / max(len(values), 1))
