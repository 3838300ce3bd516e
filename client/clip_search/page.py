"""Writes pages of pictures: one HTML file each, with everything inside and no scripts; knows nothing of servers.

Whatever comes from outside (ids, captions, queries, media types) is escaped here. A section's `html` is the one
exception: whoever builds a section escapes what it puts in. A content security policy lets the page load nothing, so
that even a mistake there cannot run or fetch anything.

Sections may use the page's colours, which follow light and dark mode: `var(--ink)`, `var(--muted)`, `var(--line)`,
`var(--paper)`, `var(--card)`, `var(--accent)`; and its classes: `scroll` around anything that may be wider than a
phone, `note` for small print.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

__all__ = ["PictureHit", "Section", "picture_uri", "render_page", "results_section"]

_MEDIA_TYPE = re.compile(r"image/[a-z0-9.+-]+")

_PLACEHOLDER = (
    '<svg class="placeholder" viewBox="0 0 64 64" role="img" aria-label="{label}">'
    '<rect x="8" y="12" width="48" height="40" rx="5"/><circle cx="22" cy="26" r="4.5"/>'
    '<path d="M10 46 26 33l9 8 8-7 12 11"/></svg>'
)


@dataclass(frozen=True, slots=True)
class PictureHit:
    """A picture that was found.

    Args:
        id: the item's id.
        score: cosine with the query, -1 to 1.
        caption: words to show under the picture; empty shows the id alone.
        picture: the encoded picture, or None to show a placeholder.
        media_type: the picture's media type, such as `image/png`.
    """

    id: str
    score: float
    caption: str
    picture: bytes | None
    media_type: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: a heading in plain text, and HTML that is safe already."""

    heading: str
    html: str


def picture_uri(picture: bytes, media_type: str) -> str:
    """Give a `data:` URI that holds a picture.

    Raises:
        ValueError: the media type is not one of an image.
    """
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise ValueError(f"{media_type!r} is not the media type of an image")
    return f"data:{media_type};base64,{base64.b64encode(picture).decode('ascii')}"


def results_section(query: str, hits: Sequence[PictureHit], *, note: str = "") -> Section:
    """Build the section of one query: its hits as a grid of pictures, best first.

    Args:
        query: what was looked for, in words.
        hits: what was found, best first.
        note: a line to show above the pictures; may be empty.
    """
    above = f'<p class="note">{_escape(note)}</p>' if note else ""
    if not hits:
        return Section(query, f'{above}<p class="nothing">Nothing was found.</p>')
    figures = "".join(_figure(rank, hit) for rank, hit in enumerate(hits, 1))
    return Section(query, f'{above}<ol class="hits">{figures}</ol>')


def render_page(*, title: str, introduction: str, sections: Sequence[Section]) -> str:
    """Put sections together to a page, complete in itself.

    Args:
        title: the page's heading.
        introduction: a paragraph below it; an empty line begins another one.
        sections: what follows, in order.
    """
    paragraphs = [paragraph.strip() for paragraph in introduction.split("\n\n") if paragraph.strip()]
    style = resources.files("clip_search").joinpath("page.css").read_text("utf-8")
    return _PAGE.format(
        title=_escape(title),
        style=style,
        introduction="".join(f"<p>{_escape(paragraph)}</p>" for paragraph in paragraphs),
        sections="\n".join(_section(section) for section in sections),
    )


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{introduction}
</header>
<main>
{sections}
</main>
</body>
</html>
"""


def _section(section: Section) -> str:
    return f"<section>\n<h2>{_escape(section.heading)}</h2>\n{section.html}\n</section>"


def _figure(rank: int, hit: PictureHit) -> str:
    caption = hit.caption or hit.id
    label = _escape(caption)
    if hit.picture is None:
        frame = "frame empty"
        picture = _PLACEHOLDER.format(label=f"No preview of {label}")
    else:
        frame = "frame"
        picture = f'<img src="{picture_uri(hit.picture, hit.media_type)}" alt="{label}">'
    identity = f'<span class="id" title="{_escape(hit.id)}">{_escape(hit.id)}</span>' if hit.caption else ""
    return (
        f'<li><figure><div class="{frame}">{picture}<span class="rank" aria-hidden="true">{rank}</span></div>'
        f'<figcaption><span class="caption" title="{label}">{label}</span>{identity}'
        f'<span class="score">{hit.score:.3f}</span></figcaption></figure></li>\n'
    )


def _escape(text: str) -> str:
    """Make text safe in content and attributes; what UTF-8 cannot hold (halves of surrogate pairs) becomes `?`."""
    return html.escape(text.encode(errors="replace").decode(), quote=True)
