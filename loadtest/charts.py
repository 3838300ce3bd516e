"""Draws lines over time as SVG that stands in a page, without scripts; knows nothing of what they mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["STYLE", "Line", "line_chart"]

Points = Sequence[tuple[float, float | None]]

_WIDTH, _HEIGHT = 560, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 10, 24
_COLOURS = ("#3b7ddd", "#e08a2e", "#c94f6d", "#2a9d6f")
_TICKS = 4
#: Adds to the page's own style.
STYLE = """\
<style>
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(24rem,100%),1fr));gap:1.5rem}
.charts figure{margin:0}
.charts + .note{margin-top:.7rem}
details .scroll{margin-top:.7rem}
summary{cursor:pointer}
.charts figcaption{font-size:.9rem;margin-bottom:.3rem}
.charts svg{display:block;width:100%;height:auto}
.charts text{fill:var(--muted);font-size:12px}
.charts .grid{stroke:var(--line);stroke-width:1}
.charts .key{white-space:nowrap;margin-left:.7rem;font-weight:600}
.load-table{font-size:.9rem}
.load-table th{white-space:nowrap}
h3{margin:1.5rem 0 .5rem}
.load-table td,.load-table thead th:not(:first-child){text-align:right;white-space:nowrap}
.load-table td.words{text-align:left;white-space:normal}
.load-table .missed{color:#c0392b;font-weight:700}
.load-table .kept{color:#2a8f5f}
</style>
"""


@dataclass(frozen=True, slots=True)
class Line:
    """A name and its points: seconds and value, None where there is a gap."""

    name: str
    points: Points


def line_chart(title: str, lines: Sequence[Line], seconds_max: float) -> str:
    """Draw lines into one chart from 0 on; empty where no line has a point."""
    values = [value for line in lines for at, value in line.points if value is not None and 0 <= at <= seconds_max]
    if not values or seconds_max <= 0:
        return ""
    step = _round_step(max(values) / _TICKS or 0.25)
    top = step * max(1, math.ceil(max(values) / step - 1e-9))
    colours = [_COLOURS[index % len(_COLOURS)] for index in range(len(lines))]
    keys = "".join(
        f'<span class="key" style="color:{colour}">{escape(line.name)}</span>'
        for line, colour in zip(lines, colours, strict=True)
    )
    drawn = "".join(_path(line.points, colour, seconds_max, top) for line, colour in zip(lines, colours, strict=True))
    label = escape(f"{title}: {', '.join(line.name for line in lines)}", quote=True)
    return (
        f"<figure><figcaption>{escape(title)}{keys}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f"{_grid(step, top)}{_times(seconds_max)}{drawn}</svg></figure>"
    )


def _x(seconds: float, seconds_max: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / seconds_max


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / top


def _round_step(at_least: float) -> float:
    """Return the smallest of 1, 2, 2.5, 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= at_least * (1 - 1e-9))


def _grid(step: float, top: float) -> str:
    found = []
    for number in range(round(top / step) + 1):
        y = _y(number * step, top)
        found.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number * step:,.6g}</text>'
        )
    return "".join(found)


def _times(seconds_max: float) -> str:
    step = _round_step(seconds_max / 6)
    return "".join(
        f'<text x="{_x(number * step, seconds_max):.1f}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f"{number * step:g} s</text>"
        for number in range(int(seconds_max / step) + 1)
    )


def _path(points: Points, colour: str, seconds_max: float, top: float) -> str:
    """Draw one line, with a gap wherever there is no value, and a dot where a value stands alone."""
    pieces: list[list[str]] = [[]]
    for at, value in points:
        if value is None or not 0 <= at <= seconds_max:
            pieces.append([])
        else:
            pieces[-1].append(f"{_x(at, seconds_max):.1f},{_y(value, top):.1f}")
    found = []
    for piece in filter(None, pieces):
        if len(piece) == 1:
            x, _, y = piece[0].partition(",")
            found.append(f'<circle cx="{x}" cy="{y}" r="2" fill="{colour}"/>')
        else:
            found.append(f'<polyline points="{" ".join(piece)}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    return "".join(found)
