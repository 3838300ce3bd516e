"""Small copies of pictures for the page, each made once; knows nothing of why they are shown."""

import io
from html import escape
from pathlib import Path

from PIL import Image, ImageOps

from clip_search.page import picture_uri

__all__ = ["Thumbnails"]

_EDGE_PX = 144
_QUALITY = 75


class Thumbnails:
    """Makes `<img>` elements of picture files."""

    def __init__(self) -> None:
        self._made: dict[Path, str] = {}

    def element(self, path: Path, label: str) -> str:
        """Return an element that shows the picture; where Pillow cannot read it, a box with its name."""
        uri = self._made.get(path)
        if uri is None:
            uri = self._made[path] = _uri(path)
        if not uri:
            return f'<span class="ev-thumb ev-missing" title="{escape(label)}">{escape(path.name)}</span>'
        return f'<img class="ev-thumb" src="{uri}" alt="{escape(label)}" title="{escape(label)}">'


def _uri(path: Path) -> str:
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (_EDGE_PX, _EDGE_PX))
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    picture.thumbnail((_EDGE_PX, _EDGE_PX))
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=_QUALITY)
    return picture_uri(stream.getvalue(), "image/webp")
