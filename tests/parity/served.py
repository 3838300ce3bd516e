"""What the server makes of pictures, for comparing it with reference implementations."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from clip_search_server.bundle import Bundle
from clip_search_server.encoder.pixels import PixelLimits, load_pixels

__all__ = ["png", "served_pixels"]

_LIMITS = PixelLimits(image_bytes_max=10**7, image_pixels_max=10**7)


def png(picture: Image.Image) -> bytes:
    """Return the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def served_pixels(pictures: Sequence[Image.Image], bundle: Bundle) -> np.ndarray:
    """Return the pictures as the server reads them from PNG files: (pictures, size, size, 3)."""
    preprocessing = bundle.manifest.image_preprocessing
    return np.stack([load_pixels(png(picture), preprocessing, _LIMITS) for picture in pictures])
