"""The area under the receiver operating characteristic; knows nothing of what is scored.

Hanley and McNeil, The Meaning and Use of the Area under a ROC Curve, Radiology 143, 1982: the area is the probability
that a positive drawn at random scores higher than a negative, ties counting one half (the Mann-Whitney statistic).
"""

import numpy as np

from clip_search_evaluation.metrics.arrays import FloatArray

__all__ = ["auroc"]


def auroc(positives: FloatArray, negatives: FloatArray) -> float:
    """Return how well scores tell positives from negatives: 1 perfectly, 0.5 not at all.

    Args:
        positives: (positives,), scores of what should score high; one at least.
        negatives: (negatives,), likewise of what should not.
    """
    if not (positives.size and negatives.size):
        raise ValueError("an area needs positives and negatives. This is a bug.")
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left")  # (positives,)
    not_above = np.searchsorted(ordered, positives, side="right")
    return float((below + not_above).sum() / (2.0 * positives.size * negatives.size))
