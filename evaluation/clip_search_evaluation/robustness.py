"""Curves of a figure over growing damage, on a sample of the data; knows nothing of how damage is done or vectors made.

All pictures of the sample are damaged alike and searched among themselves. With captions the figure is text→image
recall@1, else the accuracy of zero-shot classification with the ensemble of prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from clip_search_evaluation.damage import PICTURE_DAMAGES, TYPOS, Damage, damaged_picture, with_typos
from clip_search_evaluation.datasets.dataset import Dataset, Restriction
from clip_search_evaluation.embedding import Embedder
from clip_search_evaluation.errors import EvaluationError
from clip_search_evaluation.figures import Curve, Level
from clip_search_evaluation.metrics.arrays import FloatArray, IntArray
from clip_search_evaluation.metrics.bootstrap import Estimate, estimate_all
from clip_search_evaluation.metrics.ranks import rank_queries
from clip_search_evaluation.metrics.retrieval import recall_at
from clip_search_evaluation.watching import Watch
from clip_search_evaluation.zero_shot import class_ranks

__all__ = ["Known", "damaged_inputs", "robustness_curves", "sample_of"]

_SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Vectors of the sample that damage to pictures does not change; None where the data has no such thing.

    Attributes:
        texts: (texts, dim), of the captions.
        classes: (classes, dim).
    """

    texts: FloatArray | None
    classes: FloatArray | None


def sample_of(dataset: Dataset, pictures: int) -> Restriction:
    """Draw some of the pictures, with their texts; the same ones each time."""
    count = len(dataset.pictures)
    rows = np.random.default_rng(_SEED).permutation(count)[:pictures]
    mask = np.zeros(count, bool)
    mask[rows] = True
    return dataset.restricted(mask, np.ones(len(dataset.texts), bool))


def damaged_inputs(dataset: Dataset, pictures: int) -> int:
    """Return how many pictures and texts are embedded for the curves, for a sample of so many pictures."""
    sample = sample_of(dataset, pictures).dataset
    levels = 1 + sum(len(damage.strengths) for damage in PICTURE_DAMAGES)
    return levels * len(sample.pictures) + len(TYPOS.strengths) * len(sample.texts)


def robustness_curves(embedder: Embedder, sample: Dataset, known: Known, watch: Watch) -> tuple[Curve, ...]:
    """Measure how a figure falls.

    Args:
        embedder: of the model.
        sample: pictures to damage, with captions or classes.
        known: vectors of these.
        watch: is told of each picture and text that was embedded.

    Returns:
        A curve for each kind of damage; none where Pillow can read none of the pictures.
    """
    try:
        untouched = embedder.pictures(_readers(sample, PICTURE_DAMAGES[0], 0), watch)
    except EvaluationError:
        return ()
    readable = np.array([row not in untouched.failures for row in range(len(sample.pictures))])
    part = sample.restricted(readable, np.ones(len(sample.texts), bool))
    if known.texts is not None:
        known = Known(known.texts[part.texts], known.classes)
    pictures = untouched.vectors[part.pictures]
    measure = _Measure(part.dataset, known)
    before = Level(0, measure.figure(pictures))

    def curve(damage: Damage, at: Callable[[float], Estimate]) -> Curve:
        after = [Level(strength, at(strength)) for strength in damage.strengths]
        return Curve(damage.name, damage.unit, measure.name, measure.cases, (before, *after))

    def with_damage(damage: Damage, strength: float) -> Estimate:
        return measure.figure(embedder.pictures(_readers(part.dataset, damage, strength), watch).vectors)

    def with_slips(count: float) -> Estimate:
        slipped = [with_typos(text, int(count), seed=row) for row, text in enumerate(part.dataset.texts)]
        return measure.figure(pictures, embedder.texts(slipped, watch).vectors)

    curves = [curve(damage, partial(with_damage, damage)) for damage in PICTURE_DAMAGES]
    if part.dataset.has_captions:
        curves.append(curve(TYPOS, with_slips))
    return tuple(curves)


class _Measure:
    """The figure that is followed, and what it is measured on."""

    def __init__(self, sample: Dataset, known: Known) -> None:
        self._sample = sample
        self._known = known
        self.name = "recall@1" if sample.has_captions else "top-1"
        self.cases = len(sample.texts) if sample.has_captions else len(sample.pictures)

    def figure(self, pictures: FloatArray, texts: FloatArray | None = None) -> Estimate:
        """Measure with these vectors of pictures (pictures, dim) and, where they changed, of texts (texts, dim)."""
        ranks = self._ranks(pictures, texts)
        groups = self._sample.picture_groups() if self._sample.has_captions else np.arange(len(ranks), dtype=np.int64)
        (estimate,) = estimate_all(lambda rows: np.array([recall_at(ranks[rows], 1)]), groups)
        return estimate

    def _ranks(self, pictures: FloatArray, texts: FloatArray | None) -> IntArray:
        if self._sample.has_captions:
            queries = self._known.texts if texts is None else texts
            assert queries is not None, "captions have vectors. This is a bug."
            return rank_queries(queries, pictures, self._sample.pairs).ranks
        assert self._known.classes is not None, "classes have vectors. This is a bug."
        return class_ranks(pictures @ self._known.classes.T, self._sample.class_rows)


def _readers(sample: Dataset, damage: Damage, strength: float) -> Sequence[Callable[[], bytes]]:
    return [partial(_damaged, path, damage, strength, row) for row, path in enumerate(sample.pictures)]


def _damaged(path: Path, damage: Damage, strength: float, seed: int) -> bytes:
    return damaged_picture(path.read_bytes(), damage, strength, seed=seed)
