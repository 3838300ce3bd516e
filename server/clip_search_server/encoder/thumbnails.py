"""Small WebP pictures for showing hits, made of what was decoded for the model; knows nothing of models or storage.

WebP at these sizes takes about half the bytes of JPEG, and every browser shows it. A picture is never enlarged.
"""

import io
from dataclasses import dataclass

from PIL import Image

from clip_search_server.encoder.decoding import Decoded

__all__ = ["ThumbnailSettings", "make_thumbnail"]

_QUALITIES = (75, 50, 25)
_EDGE_LEAST = 16
_METHOD = 2
"""Effort of 0 to 6: beyond 2 it costs milliseconds and wins few bytes."""


@dataclass(frozen=True, slots=True)
class ThumbnailSettings:
    """How large a thumbnail may be.

    Args:
        edge_max: of its longest edge, in pixels.
        bytes_max: of the file.
    """

    edge_max: int
    bytes_max: int


def make_thumbnail(picture: Decoded, settings: ThumbnailSettings) -> bytes:
    """Return a WebP file of the whole picture, or ``b""`` where even a tiny one would have too many bytes."""
    edge = min(settings.edge_max, max(picture.image.size))
    while edge >= min(_EDGE_LEAST, settings.edge_max):
        small = _resized(picture, edge)
        for quality in _QUALITIES:
            data = _encode(small, quality)
            if len(data) <= settings.bytes_max:
                return data
        edge //= 2
    return b""


def _resized(picture: Decoded, edge: int) -> Image.Image:
    longest = max(picture.width, picture.height)
    width, height = (max(1, round(edge * side / longest)) for side in (picture.width, picture.height))
    # First by averaging whole blocks down to one and a half times the size at least: half the time, and not to be seen.
    return picture.image.resize((width, height), resample=Image.Resampling.BICUBIC, box=picture.box, reducing_gap=1.5)


def _encode(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=_METHOD)
    return buffer.getvalue()
