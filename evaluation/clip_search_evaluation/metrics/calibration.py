"""Whether a confidence of 70 % is right in 70 % of cases; knows nothing of models.

Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017 (arXiv:1706.04599), section 2: the
interval from 0 to 1 is cut into bins of equal width, each open below and closed above; the expected calibration error
is Σ share of the bin · |accuracy in it - mean confidence in it|. The first bin holds 0 as well.
"""

from dataclasses import dataclass

import numpy as np

from clip_search_evaluation.metrics.arrays import FloatArray, IntArray

__all__ = ["Reliability", "expected_calibration_error", "reliability"]

_BINS = 15  # as in the paper's tables


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """A reliability diagram: of each bin how many cases, their mean confidence and accuracy; NaN where there is none.

    Attributes:
        edges: (bins + 1,).
        counts: (bins,).
        confidences: (bins,).
        accuracies: (bins,).
    """

    edges: FloatArray
    counts: IntArray
    confidences: FloatArray
    accuracies: FloatArray

    @property
    def error(self) -> float:
        """The expected calibration error, 0 to 1."""
        filled = self.counts > 0
        gaps = np.abs(self.accuracies[filled] - self.confidences[filled])
        return float((gaps * self.counts[filled]).sum() / self.counts.sum())


def reliability(confidences: FloatArray, is_right: FloatArray, *, bins: int = _BINS) -> Reliability:
    """Gather cases by confidence.

    Args:
        confidences: (cases,), 0 to 1, in the answer that was given.
        is_right: (cases,), 1 where that answer was right, else 0.
        bins: how many.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], confidences, side="left")  # (cases,): edge < confidence <= next edge
    counts = np.bincount(bin_of, minlength=bins).astype(np.int64)
    with np.errstate(invalid="ignore"):
        return Reliability(
            edges=edges,
            counts=counts,
            confidences=np.bincount(bin_of, weights=confidences, minlength=bins) / counts,
            accuracies=np.bincount(bin_of, weights=is_right, minlength=bins) / counts,
        )


def expected_calibration_error(confidences: FloatArray, is_right: FloatArray, *, bins: int = _BINS) -> float:
    """Return the expected calibration error, 0 to 1; see `reliability`."""
    return reliability(confidences, is_right, bins=bins).error
