"""Zero-shot classification with the paper's prompts, and whether its probabilities can be believed.

Radford et al. 2021 (arXiv:2103.00020), section 3.1.2: a class is the mean of the unit vectors of its sentences,
normalized anew; the picture goes to the class whose vector is nearest. Knows nothing of servers.
"""

from collections import Counter

import numpy as np

from clip_search_evaluation.datasets.dataset import Dataset
from clip_search_evaluation.figures import Confusion, ZeroShotFigures
from clip_search_evaluation.metrics.arrays import FloatArray, IntArray
from clip_search_evaluation.metrics.bootstrap import estimate_all
from clip_search_evaluation.metrics.calibration import expected_calibration_error, reliability
from clip_search_evaluation.metrics.ranks import rank_of_scores
from clip_search_evaluation.metrics.retrieval import hits_at, recall_at
from clip_search_evaluation.prompts import PromptSet
from clip_search_evaluation.scoring import Scoring

__all__ = ["ACCURACY_RANKS", "class_ranks", "class_vectors", "zero_shot_figures"]

ACCURACY_RANKS = (1, 5)
_CONFUSIONS = 8


def class_vectors(sentences: FloatArray, count: int) -> FloatArray:
    """Return (classes, dim) unit vectors from those of their sentences (classes · templates, dim), class by class."""
    means = sentences.reshape(count, -1, sentences.shape[1]).astype(np.float64).mean(axis=1)
    vectors: FloatArray = means / np.linalg.norm(means, axis=1, keepdims=True)
    return vectors


def class_ranks(cosines: FloatArray, class_rows: IntArray) -> IntArray:
    """Return the place of each picture's own class (pictures,) among cosines (pictures, classes)."""
    pairs = np.stack([np.arange(len(class_rows), dtype=np.int64), class_rows], axis=1)
    return rank_of_scores(cosines, pairs).ranks


def zero_shot_figures(
    prompts: PromptSet, cosines: FloatArray, scoring: Scoring, dataset: Dataset
) -> tuple[ZeroShotFigures, FloatArray]:
    """Return the figures of one set of prompts, and (pictures,) which pictures were classified rightly.

    Args:
        prompts: the set.
        cosines: (pictures, classes).
        scoring: what makes probabilities of cosines.
        dataset: whose pictures and classes these are.
    """
    ranks = class_ranks(cosines, dataset.class_rows)
    is_right = hits_at(ranks, 1)
    confidences = scoring.probabilities(cosines).max(axis=1)  # (pictures,)

    def figures(rows: IntArray) -> FloatArray:
        accuracy = [recall_at(ranks[rows], k) for k in ACCURACY_RANKS]
        return np.array([*accuracy, expected_calibration_error(confidences[rows], is_right[rows])])

    *accuracy, calibration_error = estimate_all(figures, np.arange(len(ranks), dtype=np.int64))
    taken_for = cosines.argmax(axis=1)
    found = ZeroShotFigures(
        prompts=prompts,
        pictures=len(ranks),
        accuracy=dict(zip(ACCURACY_RANKS, accuracy, strict=True)),
        calibration_error=calibration_error,
        reliability=reliability(confidences, is_right),
        confusions=_confusions(dataset, taken_for, confidences),
    )
    return found, is_right


def _confusions(dataset: Dataset, taken_for: IntArray, confidences: FloatArray) -> tuple[Confusion, ...]:
    is_class, classes = dataset.class_rows.tolist(), dataset.classes
    wrong = np.flatnonzero(dataset.class_rows != taken_for)
    pairs = {int(row): (is_class[row], int(taken_for[row])) for row in wrong}
    surest: dict[tuple[int, int], int] = {}
    for row, pair in sorted(pairs.items(), key=lambda entry: -confidences[entry[0]]):
        surest.setdefault(pair, row)
    members = Counter(is_class)
    frequent = sorted(Counter(pairs.values()).items(), key=lambda entry: (-entry[1], entry[0]))
    return tuple(
        Confusion(classes[right], classes[other], count, members[right], dataset.pictures[surest[right, other]])
        for (right, other), count in frequent[:_CONFUSIONS]
    )
