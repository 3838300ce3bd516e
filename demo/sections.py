"""Sections of the demo's gallery: what CLIP does, shown with real vectors of the demo server.

Each function takes plain figures, names and encoded pictures and returns one `Section` of self-contained HTML: tables,
inline SVG and style, no scripts. Knows nothing of servers and files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from clip_search.page import Section, picture_uri
from demo.evaluation import RECALL_RANKS, Evaluation, Outcome

FloatArray = npt.NDArray[np.floating]

_MEDIA_TYPE = "image/png"
_MAP_WIDTH, _MAP_HEIGHT, _MAP_MARGIN = 720, 460, 34
_MAP_THUMBNAIL = 34
_LABEL_HEIGHT = 21
#: Adds to the page's own style. Its colours read on light and on dark pages.
_STYLE = """\
<style>
.demo-text{max-width:44rem;margin:0 0 1rem}
.demo-table{font-size:.9rem}
.demo-table td,.demo-table thead th{text-align:center;font-weight:normal}
.demo-table th{font-weight:normal;vertical-align:bottom}
.demo-table th[scope=row]{min-width:6rem;vertical-align:middle;line-height:1.25}
.demo-heat td{min-width:3.4rem;border:0}
.demo-heat td.demo-best{outline:2px solid currentColor;outline-offset:-2px;font-weight:bold}
.demo-thumb{width:2.6rem;height:2.6rem;border-radius:.4rem;display:block;margin:auto}
.demo-bars{display:flex;flex-wrap:wrap;gap:1.5rem;align-items:center}
.demo-bars img{width:9rem;height:9rem;border-radius:.8rem}
.demo-bars table{flex:1 1 15rem;max-width:38rem}
.demo-bars th,.demo-bars td{border:0;padding:.2rem .5rem}
.demo-bar{width:65%}
.demo-table td{white-space:nowrap}
.demo-bar div{height:1.1rem;min-width:1px;border-radius:.2rem;background:#2a9d6f}
.demo-map{display:block;width:100%;max-width:60rem;height:auto;margin-bottom:1rem}
.demo-map text{fill:currentColor;font-size:14px;paint-order:stroke;stroke:var(--paper);stroke-width:4px}
.demo-map .demo-pictures{fill:#4a90d9;fill-opacity:.6}
.demo-map .demo-texts{fill:#e08a2e;fill-opacity:.7}
.demo-key{white-space:nowrap;font-weight:bold}
@media(max-width:40rem){
.demo-table{font-size:.75rem}
.demo-table td,.demo-table th{padding:.2rem .15rem}
.demo-table th[scope=row]{min-width:4.6rem}
.demo-heat td{min-width:1.9rem;font-size:.68rem}
.demo-heat .demo-thumb{width:1.8rem;height:1.8rem}
.demo-map text{font-size:21px}
}
</style>
"""
_MATRIX_TEXT = (
    "CLIP turns pictures and words into points of one space, and measures how near they are: the cosine between their "
    "vectors. Each row is a caption, each column a picture in a style the model has never seen; the stronger the "
    "green, the nearer. The outlined cell is the picture that fits the caption best, and it is the right one in "
    "{right} of {count} rows."
)
_CLASSIFICATION_TEXT = (
    "The same space answers another question: which of these words fits the picture best? Nobody trained the model on "
    "this list of labels. It was made up here, and any other list works just as well: that is called zero-shot "
    "classification."
)
_MAP_TEXT = (
    'Each <span class="demo-key" style="color:#4a90d9">● dot</span> is a picture, each '
    '<span class="demo-key" style="color:#e08a2e">■ square</span> a caption, {count} of each, flattened to the two '
    "directions in which they differ most ({explained} of all variation). Lines join some pictures to their captions. "
    "{gap}"
)
_WIDE_GAP_TEXT = (
    "Pictures and words keep to regions of their own: this is the <em>modality gap</em>, common in CLIP models. Search "
    "works nevertheless, because it only asks which picture is nearest <em>among the pictures</em>; it is also why "
    "even a perfect match scores below 1."
)
_NARROW_GAP_TEXT = (
    "In many CLIP models pictures and words keep to regions of their own, the <em>modality gap</em>; in this one they "
    "overlap for the most part. Search works either way: it only asks which picture is nearest <em>among the "
    "pictures</em>."
)
_RECALL_TEXT = (
    "Recall@k is the share of queries with at least one right picture among the first k. Names are the official short "
    "names of the emoji, with one right picture each; phrases are what a person might type, written down before the "
    "model was trained and kept out of its training. {pictures} pictures were searched, drawn in a style the model has "
    "never seen; blind guessing would put a given picture among the first 10 in {chance} of cases."
)
_FAILURES_TEXT = (
    "A small model knows few words and mixes up what looks alike. These are the queries whose right picture came "
    "latest: what should have been found (one of the right pictures), its place in the ranking, and what came first."
)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture and its name."""

    name: str
    picture: bytes  # an encoded PNG


def matrix_section(items: Sequence[Labelled], similarities: FloatArray) -> Section:
    """Return the table of how well each caption fits each picture.

    Args:
        items: the pictures, whose names are the captions.
        similarities: cosines, (captions, pictures), in the order of `items`.
    """
    if similarities.shape != (len(items), len(items)):
        raise ValueError(f"{len(items)} items need as many rows and columns, not {similarities.shape}")
    low, high = max(float(similarities.min()), 0.0), float(similarities.max())
    best = similarities.argmax(axis=1)  # (captions,)
    right = int((best == np.arange(len(items))).sum())
    heads = "".join(f'<th scope="col">{_thumbnail(item)}</th>' for item in items)
    rows = []
    for row, item in enumerate(items):
        cells = "".join(
            _heat_cell(float(value), (float(value) - low) / max(high - low, 1e-9), is_best=column == best[row])
            for column, value in enumerate(similarities[row])
        )
        rows.append(f'<tr><th scope="row">{escape(item.name)}</th>{cells}</tr>')
    return Section(
        "Which caption fits which picture?",
        f"{_STYLE}{_text(_MATRIX_TEXT.format(right=right, count=len(items)))}"
        f'<div class="scroll"><table class="demo-table demo-heat"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>",
    )


def _heat_cell(value: float, share: float, *, is_best: bool) -> str:
    """Return a cell with a cosine; `share` 0 to 1 is how strong its colour is, and what lies below has none."""
    best = ' class="demo-best"' if is_best else ""
    return f'<td{best} style="background:rgba(30,150,105,{0.75 * max(share, 0):.2f})">{round(value, 2) + 0.0:.2f}</td>'


def classification_section(item: Labelled, probabilities: Mapping[str, float]) -> Section:
    """Return the bars that tell how well each of several labels fits one picture."""
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        f'<td class="demo-bar"><div style="width:{100 * share:.1f}%"></div></td><td>{share:.1%}</td></tr>'
        for label, share in sorted(probabilities.items(), key=lambda entry: -entry[1])
    )
    return Section(
        "Telling what is in a picture, without training for it",
        f'{_text(_CLASSIFICATION_TEXT)}<div class="demo-bars"><img alt="{escape(item.name)}" src="{_uri(item)}">'
        f'<table class="demo-table"><tbody>{rows}</tbody></table></div>',
    )


@dataclass(frozen=True, slots=True)
class SpaceMap:
    """A flat view of the shared space.

    Attributes:
        pictures: float64 (items, 2), positions of pictures.
        texts: float64 (items, 2), positions of their captions.
        gap: distance between the mean picture vector and the mean text vector.
        spread: mean distance of a picture vector from the mean picture vector, for comparison.
        explained: share of the variance that the two shown directions hold, 0 to 1.
    """

    pictures: FloatArray
    texts: FloatArray
    gap: float
    spread: float
    explained: float


def project(picture_vectors: FloatArray, text_vectors: FloatArray) -> SpaceMap:
    """Project pictures and texts together onto the two directions in which they vary most (principal components).

    Args:
        picture_vectors: (items, dim), unit length.
        text_vectors: (items, dim), unit length, in the same order.
    """
    joint = np.concatenate([picture_vectors, text_vectors]).astype(np.float64)  # (2 * items, dim)
    centred = joint - joint.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    # The sign of a direction is arbitrary: we let its largest entry be positive, so that the map is the same each time.
    signs = np.sign(directions[np.arange(2), np.abs(directions[:2]).argmax(axis=1)])
    points = centred @ (directions[:2] * signs[:, None]).T  # (2 * items, 2)
    picture_mean, text_mean = picture_vectors.mean(axis=0), text_vectors.mean(axis=0)
    return SpaceMap(
        pictures=points[: len(picture_vectors)],
        texts=points[len(picture_vectors) :],
        gap=float(np.linalg.norm(picture_mean - text_mean)),
        spread=float(np.linalg.norm(picture_vectors - picture_mean, axis=1).mean()),
        explained=float((singular[:2] ** 2).sum() / (singular**2).sum()),
    )


def map_section(space: SpaceMap, shown: Mapping[int, Labelled]) -> Section:
    """Return the map of the shared space.

    Args:
        space: where everything lies.
        shown: items drawn as thumbnails and joined to their captions by a line, by their row in `space`.
    """
    place = _Placer(np.concatenate([space.pictures, space.texts]))
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in map(place, space.pictures)]
    squares = [f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"/>' for x, y in map(place, space.texts)]
    heights = _apart([place(space.texts[row])[1] for row in shown])
    pairs = [
        _pair(place(space.pictures[row]), place(space.texts[row]), item, height)
        for (row, item), height in zip(shown.items(), heights, strict=True)
    ]
    gap = _WIDE_GAP_TEXT if space.gap > space.spread / 2 else _NARROW_GAP_TEXT
    text = _MAP_TEXT.format(count=len(space.pictures), explained=f"{space.explained:.0%}", gap=gap)
    return Section(
        "A map of the space that pictures and words share",
        f'{_text(text)}<svg class="demo-map" viewBox="0 0 {_MAP_WIDTH} {_MAP_HEIGHT}" role="img" '
        'aria-label="Map of picture and text vectors">'
        f'<g class="demo-pictures">{"".join(dots)}</g><g class="demo-texts">{"".join(squares)}</g>'
        f"{''.join(pairs)}</svg>"
        "<p>Distance between the mean picture and the mean caption: "
        f"<strong>{space.gap:.2f}</strong>. For comparison, a picture lies {space.spread:.2f} from the mean picture on "
        "average. (All vectors have length 1.)</p>",
    )


class _Placer:
    """Maps points of the space into the drawing."""

    def __init__(self, points: FloatArray) -> None:
        self._low = points.min(axis=0)
        self._extent = np.maximum(points.max(axis=0) - self._low, 1e-9)

    def __call__(self, point: FloatArray) -> tuple[float, float]:
        across, up = (point - self._low) / self._extent
        width, height = _MAP_WIDTH - 2 * _MAP_MARGIN, _MAP_HEIGHT - 2 * _MAP_MARGIN
        return _MAP_MARGIN + float(across) * width, _MAP_MARGIN + (1 - float(up)) * height


def _apart(heights: Sequence[float]) -> list[float]:
    """Return `heights` moved down as little as needed for labels there not to cover one another."""
    moved = list(heights)
    lowest = -float("inf")
    for row in sorted(range(len(moved)), key=lambda row: heights[row]):
        moved[row] = lowest = max(moved[row], lowest + _LABEL_HEIGHT)
    return moved


def _pair(picture: tuple[float, float], text: tuple[float, float], item: Labelled, label_height: float) -> str:
    half = _MAP_THUMBNAIL / 2
    anchor, shift = ("start", 8) if text[0] < _MAP_WIDTH / 2 else ("end", -8)
    return (
        f'<line x1="{picture[0]:.1f}" y1="{picture[1]:.1f}" x2="{text[0]:.1f}" y2="{text[1]:.1f}" '
        'stroke="currentColor" stroke-opacity=".35"/>'
        f'<image x="{picture[0] - half:.1f}" y="{picture[1] - half:.1f}" width="{_MAP_THUMBNAIL}" '
        f'height="{_MAP_THUMBNAIL}" href="{_uri(item)}"/>'
        f'<text x="{text[0] + shift:.1f}" y="{label_height + 5:.1f}" text-anchor="{anchor}">{escape(item.name)}</text>'
    )


def spread_out(points: FloatArray, rows: Sequence[int], count: int) -> list[int]:
    """Return `count` of `rows` whose points lie far from one another, the first of them included.

    Each next one is the row farthest from its nearest chosen neighbour.

    Args:
        points: (items, 2).
        rows: candidates.
        count: how many to choose; all are chosen when there are no more.
    """
    chosen = list(rows[:1])
    while len(chosen) < min(count, len(rows)):
        distances = np.linalg.norm(points[list(rows)][:, None] - points[chosen][None], axis=-1)  # (rows, chosen)
        chosen.append(rows[int(distances.min(axis=1).argmax())])
    return chosen


def recall_section(evaluations: Sequence[Evaluation], pictures: int) -> Section:
    """Return the table of recall figures.

    Args:
        evaluations: what was measured.
        pictures: how many pictures were searched.
    """
    heads = "".join(f'<th scope="col">recall@{rank}</th>' for rank in RECALL_RANKS)
    rows = "".join(
        f'<tr><th scope="row">{escape(evaluation.title)}</th><td>{len(evaluation.outcomes):,}</td>'
        + "".join(f"<td>{evaluation.recall(rank):.1%}</td>" for rank in RECALL_RANKS)
        + "</tr>"
        for evaluation in evaluations
    )
    chance = f"{min(1.0, 10 / pictures):.1%}"
    return Section(
        "How often is a right picture found?",
        f"{_text(_RECALL_TEXT.format(pictures=f'{pictures:,}', chance=chance))}"
        '<div class="scroll"><table class="demo-table"><thead><tr><th></th><th scope="col">queries</th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div>",
    )


def failures_section(evaluations: Sequence[Evaluation], pictures: Mapping[str, Labelled], *, count: int) -> Section:
    """Return the `count` worst failures of each evaluation: what was right, where it came, and what came first.

    Args:
        evaluations: what was measured.
        pictures: thumbnails by hexcode; those of the worst failures must be among them.
        count: how many rows each evaluation gets at most.
    """
    tables = "".join(_failures_table(evaluation, pictures, count) for evaluation in evaluations)
    return Section("Where it fails worst", _text(_FAILURES_TEXT) + tables)


def _failures_table(evaluation: Evaluation, pictures: Mapping[str, Labelled], count: int) -> str:
    rows = "".join(_failure_row(outcome, pictures) for outcome in evaluation.worst(count))
    title = f"<h3>{escape(evaluation.title.capitalize())}</h3>"
    if not rows:
        return f"{title}<p>Every query found a right picture among the first {max(RECALL_RANKS)}.</p>"
    return (
        f'{title}<div class="scroll"><table class="demo-table"><thead><tr><th scope="col">query</th>'
        '<th scope="col">right</th><th scope="col">its place</th><th scope="col">came first</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _failure_row(outcome: Outcome, pictures: Mapping[str, Labelled]) -> str:
    right = pictures[min(outcome.query.answers)]
    first = _thumbnail(pictures[outcome.first]) if outcome.first else "nothing"
    return (
        f'<tr><th scope="row">{escape(outcome.query.text)}</th><td>{_thumbnail(right)}</td><td>{outcome.rank:,}</td>'
        f"<td>{first}</td></tr>"
    )


def closing_section(lines: Sequence[str]) -> Section:
    """Return what to do next and who made what is shown, one paragraph a line."""
    return Section("What next, and credits", "".join(f"<p>{escape(line)}</p>" for line in lines))


def _text(safe_html: str) -> str:
    return f'<p class="demo-text">{safe_html}</p>'


def _thumbnail(item: Labelled) -> str:
    name = escape(item.name)
    return f'<img class="demo-thumb" alt="{name}" title="{name}" src="{_uri(item)}">'


def _uri(item: Labelled) -> str:
    return picture_uri(item.picture, _MEDIA_TYPE)
