"""Drawings as inline SVG: curves, reliability diagrams, histograms. Numbers in, markup out; computes no figures.

Whatever text is given is escaped here. Colours are the page's: `ev-0`, `ev-1`, … are those of the subjects, in their
order (`report.css`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from clip_search_evaluation.figures import Histogram
from clip_search_evaluation.metrics.bootstrap import Estimate
from clip_search_evaluation.metrics.calibration import Reliability

__all__ = ["COLOURS", "Line", "curve_plot", "histogram_plot", "reliability_plot"]

#: How many subjects have colours of their own; further ones begin anew.
COLOURS = 6
_WIDTH, _HEIGHT = 340, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 20, 12, 42
_GRID = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Line:
    """The points of one curve, one for each label of the axis across."""

    name: str
    points: Sequence[Estimate]


def curve_plot(lines: Sequence[Line], labels: Sequence[str], axis: str, *, title: str) -> str:
    """Draw curves of shares, 0 to 1, with their intervals as bands.

    Args:
        lines: one for each subject.
        labels: of the points, from left to right, evenly spaced.
        axis: what is across.
        title: what the drawing shows, for those who cannot see it.
    """
    places = [_across(at / max(len(labels) - 1, 1)) for at in range(len(labels))]
    shown = [_text(x, _HEIGHT - _BOTTOM + 16, label, "middle") for x, label in zip(places, labels, strict=True)]
    drawn = []
    for number, line in enumerate(lines):
        colour = f"ev-{number % COLOURS}"
        upper = [f"{x:.1f},{_up(point.high):.1f}" for x, point in zip(places, line.points, strict=True)]
        lower = [f"{x:.1f},{_up(point.low):.1f}" for x, point in zip(places, line.points, strict=True)]
        middle = " ".join(f"{x:.1f},{_up(point.value):.1f}" for x, point in zip(places, line.points, strict=True))
        drawn.append(
            f'<g class="{colour}"><polygon points="{" ".join([*upper, *reversed(lower)])}"/>'
            f'<polyline points="{middle}"/>'
            + "".join(
                f'<circle cx="{x:.1f}" cy="{_up(point.value):.1f}" r="3"><title>{escape(line.name)}, {escape(label)}: '
                f"{point.value:.1%}</title></circle>"
                for x, point, label in zip(places, line.points, labels, strict=True)
            )
            + "</g>"
        )
    return _svg(title, _grid_of_shares() + "".join(shown) + _axis(axis) + "".join(drawn))


def reliability_plot(diagram: Reliability, *, colour: int, title: str) -> str:
    """Draw accuracy over confidence: bars, the diagonal they should reach, and how many cases each bar stands for."""
    most = max(int(diagram.counts.max()), 1)
    bars = []
    for at, count in enumerate(diagram.counts.tolist()):
        if not count:
            continue
        left, right = _across(float(diagram.edges[at])), _across(float(diagram.edges[at + 1]))
        top = _up(float(diagram.accuracies[at]))
        floor = _up(0)
        strength = 0.25 + 0.75 * count / most
        bars.append(
            f'<rect x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" height="{floor - top:.1f}" '
            f'fill-opacity="{strength:.2f}"><title>confidence {diagram.confidences[at]:.0%}: right in '
            f"{diagram.accuracies[at]:.0%} of {count:,}</title></rect>"
            f'<line x1="{left + 1:.1f}" x2="{right - 1:.1f}" y1="{top:.1f}" y2="{top:.1f}"/>'
        )
    ticks = "".join(_text(_across(share), _HEIGHT - _BOTTOM + 16, f"{share:.0%}", "middle") for share in _GRID)
    diagonal = f'<line class="ev-ideal" x1="{_across(0)}" y1="{_up(0)}" x2="{_across(1)}" y2="{_up(1)}"/>'
    body = f'<g class="ev-{colour % COLOURS} ev-bars">{"".join(bars)}</g>'
    return _svg(title, _grid_of_shares() + ticks + _axis("confidence") + body + diagonal)


def histogram_plot(matching: Histogram, other: Histogram, *, colour: int, title: str) -> str:
    """Draw two histograms over the same axis: cosines of matching pairs in colour, of others in grey."""
    highest = max(float(matching.shares.max()), float(other.shares.max()), 1e-9)
    low, high = float(matching.edges[0]), float(matching.edges[-1])
    ticks = "".join(
        _text(_across(share), _HEIGHT - _BOTTOM + 16, f"{low + share * (high - low):.2f}", "middle") for share in _GRID
    )
    floor = f'<line class="ev-grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_up(0)}" y2="{_up(0)}"/>'
    grey = f'<g class="ev-other ev-bars">{_columns(other, highest)}</g>'
    coloured = f'<g class="ev-{colour % COLOURS} ev-bars">{_columns(matching, highest)}</g>'
    return _svg(title, floor + ticks + _axis("cosine") + grey + coloured)


def _columns(histogram: Histogram, highest: float) -> str:
    count = len(histogram.shares)
    width = (_across(1) - _across(0)) / count
    parts = []
    for at, share in enumerate(histogram.shares.tolist()):
        if share:
            top = _up(share / highest)
            parts.append(
                f'<rect x="{_across(0) + at * width:.1f}" y="{top:.1f}" width="{width:.1f}" '
                f'height="{_up(0) - top:.1f}" fill-opacity=".55"/>'
            )
    return "".join(parts)


def _svg(title: str, body: str) -> str:
    return f'<svg class="ev-plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'


def _grid_of_shares() -> str:
    return "".join(
        f'<line class="ev-grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_up(share):.1f}" y2="{_up(share):.1f}"/>'
        + _text(_LEFT - 6, _up(share) + 4, f"{share:.0%}", "end")
        for share in _GRID
    )


def _axis(name: str) -> str:
    return _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, name, "middle")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _across(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _up(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)
