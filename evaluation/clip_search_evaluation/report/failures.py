"""Shows what went wrong with pictures: the worst searches, and classes taken for others; computes no figures."""

from html import escape

import numpy as np

from clip_search_evaluation.datasets.dataset import Dataset
from clip_search_evaluation.figures import Confusion, Measured
from clip_search_evaluation.report.thumbnails import Thumbnails

__all__ = ["confusion_list", "failure_list"]

_FAILURES = 12
_FOUND_RANK_MAX = 10


def failure_list(measured: Measured, dataset: Dataset, thumbnails: Thumbnails) -> str:
    """Return the texts whose right picture comes last: that picture, its place, and what came first instead."""
    ranking = measured.cases.text_to_image
    if ranking is None:
        return ""
    worst = [
        row for row in np.argsort(-ranking.ranks, kind="stable")[:_FAILURES] if ranking.ranks[row] > _FOUND_RANK_MAX
    ]
    if not worst:
        return f"<p>Every text finds a right picture among the first {_FOUND_RANK_MAX}.</p>"
    items = []
    for row in worst:
        text = dataset.texts[row]
        right, first = dataset.pictures[ranking.best_right[row]], dataset.pictures[ranking.first[row]]
        items.append(
            f'<li><div class="ev-pair"><figure>{thumbnails.element(right, right.name)}'
            f"<figcaption>right, but in place {ranking.ranks[row]:,}</figcaption></figure>"
            f"<figure>{thumbnails.element(first, first.name)}<figcaption>came first</figcaption></figure></div>"
            f'<p class="ev-query">{escape(text)}</p></li>'
        )
    return f'<ol class="ev-failures">{"".join(items)}</ol>'


def confusion_list(confusions: tuple[Confusion, ...], thumbnails: Thumbnails) -> str:
    """Return which classes were taken for which others, each with the picture that was taken most surely."""
    items = [
        f'<li><div class="ev-pair"><figure>{thumbnails.element(each.example, each.example.name)}</figure></div>'
        f'<p class="ev-query">{escape(each.is_class)} → {escape(each.taken_for)}<br>'
        f"<small>{each.pictures:,} of {each.of:,}</small></p></li>"
        for each in confusions
    ]
    return (
        f'<ol class="ev-failures ev-confusions">{"".join(items)}</ol>' if items else "<p>No picture was mistaken.</p>"
    )
