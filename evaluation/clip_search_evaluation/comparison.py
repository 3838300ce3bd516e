"""Compares two subjects on the same cases: differences with intervals, and exact tests; knows nothing of models."""

from collections.abc import Iterator

import numpy as np

from clip_search_evaluation.datasets.dataset import Dataset
from clip_search_evaluation.figures import RECALL_RANKS, Comparison, Difference, Measured
from clip_search_evaluation.metrics.arrays import FloatArray, IntArray
from clip_search_evaluation.metrics.bootstrap import estimate_all
from clip_search_evaluation.metrics.ranks import Ranking
from clip_search_evaluation.metrics.retrieval import hits_at
from clip_search_evaluation.metrics.significance import paired_test
from clip_search_evaluation.searching import NOT_ASKED

__all__ = ["compare"]


def compare(first: Measured, second: Measured, dataset: Dataset) -> Comparison:
    """Compare what was found about two subjects on the same data."""
    one, other = first.cases, second.cases
    differences: list[Difference] = []
    text_groups = dataset.picture_groups()
    picture_groups = np.arange(len(dataset.pictures), dtype=np.int64)
    captioned = np.unique(dataset.pairs[:, 1])
    if one.text_to_image is not None and other.text_to_image is not None:
        differences += _ranked("text→image", one.text_to_image, other.text_to_image, text_groups)
    if one.image_to_text is not None and other.image_to_text is not None:
        differences += _ranked("image→text", one.image_to_text, other.image_to_text, captioned)
    if one.searched_ranks is not None and other.searched_ranks is not None:
        asked = (one.searched_ranks != NOT_ASKED) & (other.searched_ranks != NOT_ASKED)
        if asked.any():
            ranks = one.searched_ranks[asked], other.searched_ranks[asked]
            differences += _recalls("search", *ranks, text_groups[asked])
    differences += [
        _difference(f"top-1, {name}", one.is_right[name], other.is_right[name], picture_groups, "McNemar")
        for name in one.is_right
    ]
    return Comparison(first.subject.name, second.subject.name, tuple(differences))


def _ranked(kind: str, one: Ranking, other: Ranking, groups: IntArray) -> Iterator[Difference]:
    yield from _recalls(kind, one.ranks, other.ranks, groups)
    yield _difference(f"{kind} MRR", 1 / one.ranks, 1 / other.ranks, groups, "sign")


def _recalls(kind: str, one: IntArray, other: IntArray, groups: IntArray) -> Iterator[Difference]:
    for k in RECALL_RANKS:
        yield _difference(f"{kind} R@{k}", hits_at(one, k), hits_at(other, k), groups, "McNemar")


def _difference(figure: str, one: FloatArray, other: FloatArray, groups: IntArray, test: str) -> Difference:
    """Compare the mean scores of cases (cases,), of which `groups` (cases,) says which are drawn together."""
    (difference,) = estimate_all(lambda rows: np.array([(other[rows] - one[rows]).mean()]), groups)
    tested = paired_test(one, other)
    return Difference(
        figure=figure,
        first=float(one.mean()),
        second=float(other.mean()),
        difference=difference,
        test=test,
        first_better=tested.first_better,
        second_better=tested.second_better,
        p_value=tested.p_value,
    )
