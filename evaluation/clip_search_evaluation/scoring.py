"""How the served model makes probabilities of cosines, found out from what `Classify` answers.

The API tells no logit scale. But softmax(scale · cosine) leaves it to be read off: within one picture, differences of
the logarithms of probabilities are `scale` times those of the cosines; for a sigmoid, log(p / (1 - p)) is a straight
line of slope `scale` over the cosine. The slope is fitted over several pictures (least squares). Then probabilities of
all pictures can be computed here, and a few are compared with the server's own, so that what is reported is what is
served.
"""

from dataclasses import dataclass

import numpy as np

from clip_search.client import Client
from clip_search.contents import Vector
from clip_search.results import Classifications
from clip_search_evaluation.metrics.arrays import BoolArray, FloatArray

__all__ = ["Scoring", "classify_vectors", "fit_scoring"]

_PROBABILITY_MIN = 1e-20  # far above the smallest float32
_PROBABILITY_MAX = 0.99  # of a sigmoid; above, float32 tells too little of how far it is from 1


@dataclass(frozen=True, slots=True)
class Scoring:
    """softmax(scale · cosine) over classes, or where `bias` is set sigmoid(scale · cosine + bias) of each class."""

    scale: float
    bias: float | None = None

    def probabilities(self, cosines: FloatArray) -> FloatArray:
        """Return (pictures, classes) probabilities of cosines (pictures, classes)."""
        logits = self.scale * cosines.astype(np.float64)
        if self.bias is not None:
            alone: FloatArray = 1 / (1 + np.exp(-(logits + self.bias)))
            return alone
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: FloatArray = exponentials / exponentials.sum(axis=1, keepdims=True)
        return shares


def classify_vectors(client: Client, vectors: FloatArray, classes: list[str]) -> list[Classifications]:
    """Ask the server how well classes, without sentences around them, fit pictures given as vectors (pictures, dim)."""
    return [client.classify(Vector(vector), classes) for vector in vectors]


def fit_scoring(answers: list[Classifications]) -> Scoring:
    """Find out the scale, and the bias of a sigmoid, from what the server answered about pictures."""
    cosines = np.array([[each.similarity for each in answer.classifications] for answer in answers])
    probabilities = np.array([[each.probability for each in answer.classifications] for answer in answers])
    usable = probabilities > _PROBABILITY_MIN  # (pictures, classes)
    if answers[0].scoring == "sigmoid":
        usable &= probabilities < _PROBABILITY_MAX
        p = probabilities[usable]
        slope, intercept = np.polyfit(cosines[usable], np.log(p / (1 - p)), 1)
        return Scoring(float(slope), float(intercept))
    logs = np.log(np.where(usable, probabilities, 1.0))
    across, up = _centred(cosines, usable), _centred(logs, usable)
    return Scoring(float((across * up).sum() / (across * across).sum()))


def _centred(values: FloatArray, usable: BoolArray) -> FloatArray:
    """Subtract each picture's mean over its usable classes; what is not usable becomes 0."""
    means = np.where(usable, values, 0).sum(axis=1, keepdims=True) / usable.sum(axis=1, keepdims=True)
    return np.where(usable, values - means, 0)
