"""From the bytes of a picture to the square of pixels that an image tower reads; knows nothing of models or sessions.

The result follows the reference preprocessing of CLIP with Pillow: RGB, antialiased resize, centre crop. Rescaling and
normalization are folded into the tower's graph. What is different from the reference before that is told in
decoding.py.

A JPEG is decoded reduced, both edges at least `SHRUNK_EDGES` times the square's: the resize that follows starts from
fewer pixels, so that a few of the result differ by a step or two. bench/bench_pixels.py measures how much that is worth
and how little it moves an embedding. All other pictures give the reference's pixels exactly.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from clip_search_server.bundle import ImagePreprocessing
from clip_search_server.encoder.decoding import Decoded, OpenedPicture, PixelLimits, open_picture
from clip_search_server.errors import InvalidArgumentError

__all__ = [
    "RESIZED_PIXELS_MAX",
    "SHRUNK_EDGES",
    "SHRUNK_EDGE_MIN",
    "PixelLimits",
    "load_pixels",
    "open_for_model",
    "preprocess",
    "scale",
]

RESIZED_PIXELS_MAX: Final = 2**24
"""Most pixels a picture may have after its shortest edge is scaled: an aspect ratio of about 334 at size 224."""

SHRUNK_EDGES: Final = 2
SHRUNK_EDGE_MIN: Final = 256
"""No picture is decoded with shorter edges than this: thumbnails are made of what is decoded for the model."""

_FIELD = "image"
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def load_pixels(data: bytes, preprocessing: ImagePreprocessing, limits: PixelLimits) -> npt.NDArray[np.uint8]:
    """Decode and preprocess a picture.

    Returns:
        uint8 pixels, shape (size, size, 3).

    Raises:
        InvalidArgumentError: the field `image` is no acceptable picture; the description says why.
    """
    return scale(open_for_model(data, preprocessing, limits).decode(), preprocessing)


def open_for_model(data: bytes, preprocessing: ImagePreprocessing, limits: PixelLimits) -> OpenedPicture:
    """Read the header of a picture that will be decoded as large as the model needs it.

    Raises:
        InvalidArgumentError: the field `image` is no acceptable picture, or too long and thin.
    """
    picture = open_picture(data, limits)
    _check_shape(picture.width, picture.height, preprocessing)
    picture.shrink(max(SHRUNK_EDGE_MIN, SHRUNK_EDGES * preprocessing.size))
    return picture


def preprocess(image: Image.Image, preprocessing: ImagePreprocessing) -> npt.NDArray[np.uint8]:
    """Resize and crop an RGB picture exactly as the model's reference does; see `scale`."""
    return scale(Decoded.of(image), preprocessing)


def scale(picture: Decoded, preprocessing: ImagePreprocessing) -> npt.NDArray[np.uint8]:
    """Resize and crop a picture as the model's reference does with it at full size.

    `shortest` scales the shortest edge to `size` and the other to `int(size * long / short)`, as both transformers
    and torchvision do, then crops the centre; `squash` resizes to the square. Both use Pillow's antialiased filters.

    Returns:
        uint8 pixels, shape (size, size, 3).

    Raises:
        InvalidArgumentError: the picture is so long and thin that its scaled form would exceed `RESIZED_PIXELS_MAX`.
    """
    _check_shape(picture.width, picture.height, preprocessing)
    size = preprocessing.size
    width, height = _resized_size(picture.width, picture.height, preprocessing)
    resample = _RESAMPLING[preprocessing.interpolation]
    resized = picture.image.resize((width, height), resample=resample, box=picture.box)
    left = _crop_offset(width - size, preprocessing)
    top = _crop_offset(height - size, preprocessing)
    return np.asarray(resized.crop((left, top, left + size, top + size)), dtype=np.uint8)  # (size, size, 3)


def _check_shape(width: int, height: int, preprocessing: ImagePreprocessing) -> None:
    resized_width, resized_height = _resized_size(width, height, preprocessing)
    pixels = resized_width * resized_height
    if pixels > RESIZED_PIXELS_MAX:
        raise InvalidArgumentError(
            _FIELD,
            f"the picture is too long and thin ({width} x {height} pixels): scaled for the model it would "
            f"have {pixels} pixels, the limit is {RESIZED_PIXELS_MAX}; crop it.",
        )


def _resized_size(width: int, height: int, preprocessing: ImagePreprocessing) -> tuple[int, int]:
    size = preprocessing.size
    if preprocessing.resize_mode == "squash":
        return size, size
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def _crop_offset(surplus: int, preprocessing: ImagePreprocessing) -> int:
    # Python rounds half to even, as torchvision does with the same expression.
    return round(surplus / 2) if preprocessing.crop == "round" else surplus // 2
