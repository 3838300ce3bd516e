"""Tables of the page: figures with their intervals, differences with their tests; computes no figures."""

from collections.abc import Iterable, Sequence
from html import escape

from clip_search_evaluation.figures import Comparison, Difference, RetrievalFigures
from clip_search_evaluation.metrics.bootstrap import Estimate

__all__ = ["comparison_table", "number_cell", "retrieval_cells", "share_cell", "table"]

_P_SHOWN_MIN = 0.001


def table(heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return a table that scrolls where it is too wide.

    Args:
        heads: of the columns after the first, plain text.
        rows: each a name, plain text, and cells that are markup already.
    """
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, cells in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table class="ev-table"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def share_cell(estimate: Estimate) -> str:
    """Return a share in percent, its interval below."""
    return (
        f"<strong>{100 * estimate.value:.1f} %</strong>"
        f"<small>{100 * estimate.low:.1f} to {100 * estimate.high:.1f}</small>"
    )


def number_cell(estimate: Estimate, form: str) -> str:
    """Return a number in some format, its interval below."""
    return f"<strong>{estimate.value:{form}}</strong><small>{estimate.low:{form}} to {estimate.high:{form}}</small>"


def retrieval_cells(figures: RetrievalFigures) -> list[str]:
    """Return the cells of one subject: queries, candidates, recalls, median rank, mean reciprocal rank."""
    return [
        f"{figures.queries:,}",
        f"{figures.candidates:,}",
        *map(share_cell, figures.recall.values()),
        number_cell(figures.median_rank, ",.1f"),
        number_cell(figures.mean_reciprocal_rank, ".3f"),
    ]


def comparison_table(comparison: Comparison) -> str:
    """Return what differs between two subjects; a difference whose interval holds 0 is shown faint."""
    heads = [comparison.first, comparison.second, "difference", "better for", "test", "p"]
    return table(heads, ((each.figure, _difference_cells(each)) for each in comparison.differences))


def _difference_cells(each: Difference) -> list[str]:
    is_percent = "MRR" not in each.figure
    factor, unit, form = (100, " %", ".1f") if is_percent else (1, "", ".3f")
    low, high = factor * each.difference.low, factor * each.difference.high
    strength = "" if low > 0 or high < 0 else ' class="ev-faint"'
    value = f"<strong>{factor * each.difference.value:+{form}}</strong><small>{low:+{form}} to {high:+{form}}</small>"
    return [
        f"{factor * each.first:{form}}{unit}",
        f"{factor * each.second:{form}}{unit}",
        f"<span{strength}>{value}</span>",
        f"{each.first_better:,} : {each.second_better:,}",
        each.test,
        "&lt; 0.001" if each.p_value < _P_SHOWN_MIN else f"{each.p_value:.3f}",
    ]
