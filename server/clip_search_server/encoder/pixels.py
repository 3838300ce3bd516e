"""From the bytes of a picture to the square of pixels that an image tower reads; knows nothing of models or sessions.

The result follows the reference preprocessing of CLIP with Pillow: RGB, antialiased resize, centre crop. Rescaling and
normalization are folded into the tower's graph. Three things go beyond the reference, because without them people do
not find the picture that they see:

- The EXIF orientation is applied.
- Transparency is composited on white. `convert("RGB")` alone uncovers the colours below transparent pixels, which no
  viewer shows and which are mostly black: dark icons would vanish on them. Opaque pictures are not affected.
- 16-bit greys are scaled to 8 bits, where `convert("RGB")` clips nearly all of them to white.

Everything is bounded before it is allocated: bytes, pixels of the picture, pixels after the resize.
"""

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from clip_search_server.bundle import ImagePreprocessing
from clip_search_server.errors import InvalidArgumentError

__all__ = ["IMAGE_FORMATS", "RESIZED_PIXELS_MAX", "PixelLimits", "decode_image", "load_pixels", "preprocess"]

IMAGE_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are decoded; Pillow's other decoders are not exposed to foreign bytes."""

RESIZED_PIXELS_MAX: Final = 2**24
"""Most pixels a picture may have after its shortest edge is scaled: an aspect ratio of about 334 at size 224."""

# Pillow would warn of large pictures through the process-wide warnings machinery, and refuse larger ones, by its own
# limit. The header check in `decode_image` replaces both with the operator's limit.
Image.MAX_IMAGE_PIXELS = None

_FIELD = "image"
_WHITE = (255, 255, 255, 255)
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_TEXT_SAMPLE_BYTES = 512
_ISO_MEDIA_BRAND = slice(4, 12)
_HEIF_BRANDS = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")


@dataclass(frozen=True)
class PixelLimits:
    """The largest picture that is accepted."""

    image_bytes_max: int
    image_pixels_max: int


def load_pixels(data: bytes, preprocessing: ImagePreprocessing, limits: PixelLimits) -> npt.NDArray[np.uint8]:
    """Decode and preprocess a picture.

    Returns:
        uint8 pixels, shape (size, size, 3).

    Raises:
        InvalidArgumentError: the field `image` is no acceptable picture; the description says why.
    """
    image = decode_image(data, image_bytes_max=limits.image_bytes_max, image_pixels_max=limits.image_pixels_max)
    return preprocess(image, preprocessing)


def decode_image(data: bytes, *, image_bytes_max: int, image_pixels_max: int) -> Image.Image:
    """Decode a picture to RGB as people see it: upright, on white, first frame.

    Args:
        data: the bytes of a file in one of `IMAGE_FORMATS`.
        image_bytes_max: most bytes accepted.
        image_pixels_max: most pixels accepted; checked from the header, before pixels are decoded.

    Raises:
        InvalidArgumentError: empty, too large, not a picture, of another format, truncated or damaged.
    """
    if not data:
        raise InvalidArgumentError(_FIELD, "the picture is empty (0 bytes).")
    if len(data) > image_bytes_max:
        raise InvalidArgumentError(_FIELD, f"the picture has {len(data)} bytes; the limit is {image_bytes_max}.")
    image = _read_header(data)
    pixels = image.width * image.height
    if pixels > image_pixels_max:
        raise InvalidArgumentError(
            _FIELD,
            f"the picture has {image.width} x {image.height} = {pixels} pixels; the limit is {image_pixels_max}.",
        )
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        return _to_rgb(upright)
    except InvalidArgumentError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen types for damaged data.
        raise InvalidArgumentError(_FIELD, f"the {image.format} picture is truncated or damaged ({error}).") from error


def preprocess(image: Image.Image, preprocessing: ImagePreprocessing) -> npt.NDArray[np.uint8]:
    """Resize and crop an RGB picture exactly as the model's reference does.

    `shortest` scales the shortest edge to `size` and the other to `int(size * long / short)`, as both transformers
    and torchvision do, then crops the centre; `squash` resizes to the square. Both use Pillow's antialiased filters.

    Returns:
        uint8 pixels, shape (size, size, 3).

    Raises:
        InvalidArgumentError: the picture is so long and thin that its scaled form would exceed `RESIZED_PIXELS_MAX`.
    """
    size = preprocessing.size
    width, height = _resized_size(image.width, image.height, preprocessing)
    if width * height > RESIZED_PIXELS_MAX:
        raise InvalidArgumentError(
            _FIELD,
            f"the picture is too long and thin ({image.width} x {image.height} pixels): scaled for the model it would "
            f"have {width * height} pixels, the limit is {RESIZED_PIXELS_MAX}; crop it.",
        )
    resized = image.resize((width, height), resample=_RESAMPLING[preprocessing.interpolation])
    left = _crop_offset(width - size, preprocessing)
    top = _crop_offset(height - size, preprocessing)
    return np.asarray(resized.crop((left, top, left + size, top + size)), dtype=np.uint8)  # (size, size, 3)


def _read_header(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
    except UnidentifiedImageError as error:
        raise InvalidArgumentError(_FIELD, _describe_foreign_bytes(data)) from error
    except Exception as error:  # As in decode_image: damaged headers raise a dozen types.
        raise InvalidArgumentError(_FIELD, f"the picture's header is damaged ({error}).") from error


def _describe_foreign_bytes(data: bytes) -> str:
    accepted = f"send one of {', '.join(IMAGE_FORMATS)}."
    if data[_ISO_MEDIA_BRAND] in _HEIF_BRANDS:
        return f"HEIC and AVIF pictures are not supported; {accepted}"
    if _looks_like_text(data):
        return "the bytes are text, not a picture; to search by words, send them in the field text."
    return f"the bytes are not a picture that can be read, or its header is damaged; {accepted}"


def _looks_like_text(data: bytes) -> bool:
    sample = data[:_TEXT_SAMPLE_BYTES].decode("utf-8", errors="ignore")
    # A character cut at the end of the sample is ignored; a picture's bytes lose far more than that.
    whole = len(sample.encode()) >= min(len(data), _TEXT_SAMPLE_BYTES) - 3
    return whole and all(character.isprintable() or character.isspace() for character in sample)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _grey16_to_rgb(image)
    if image.mode == "F":
        raise InvalidArgumentError(_FIELD, "pictures of 32-bit floating-point pixels are not supported; save 8 bits.")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")
    return image.convert("RGB")


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    grey16 = np.clip(np.asarray(image).astype(np.int64), 0, 0xFFFF)  # (height, width)
    return Image.fromarray((grey16 >> 8).astype(np.uint8)).convert("RGB")


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
