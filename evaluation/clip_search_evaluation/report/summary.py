"""The figures in short: a line for each, a value for each subject; knows nothing of terminals."""

from collections.abc import Iterator

from clip_search_evaluation.figures import Evaluation, Measured, RetrievalFigures
from clip_search_evaluation.metrics.bootstrap import Estimate

__all__ = ["summary_rows"]


def summary_rows(evaluation: Evaluation) -> list[tuple[str, list[str]]]:
    """Return the name of each figure that was measured, with its value of each subject, intervals in brackets."""
    columns = [dict(_lines(each)) for each in evaluation.subjects]
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name, "") for column in columns]) for name in names]


def _lines(measured: Measured) -> Iterator[tuple[str, str]]:
    if measured.text_to_image is not None:
        yield from _retrieval("text→image", measured.text_to_image)
    if measured.image_to_text is not None:
        yield from _retrieval("image→text", measured.image_to_text)
    if measured.search is not None:
        for k, recall in measured.search.recall.items():
            yield f"search R@{k}", _percent(recall)
    for figures in measured.zero_shot:
        for k, accuracy in figures.accuracy.items():
            yield f"zero-shot top-{k}, {figures.prompts.name}", _percent(accuracy)
        yield f"zero-shot ECE, {figures.prompts.name}", _percent(figures.calibration_error)


def _retrieval(kind: str, figures: RetrievalFigures) -> Iterator[tuple[str, str]]:
    for k, recall in figures.recall.items():
        yield f"{kind} R@{k}", _percent(recall)
    rank, mrr = figures.median_rank, figures.mean_reciprocal_rank
    yield f"{kind} median rank", f"{rank.value:,.1f} ({rank.low:,.1f}–{rank.high:,.1f})"
    yield f"{kind} MRR", f"{mrr.value:.3f} ({mrr.low:.3f}–{mrr.high:.3f})"


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} % ({100 * estimate.low:.1f}–{100 * estimate.high:.1f})"
