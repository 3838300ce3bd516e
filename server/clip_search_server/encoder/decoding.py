"""From the bytes of a picture to RGB as people see it: upright, on white, first frame; knows nothing of models.

Colours are those of the reference preprocessing of CLIP, `convert("RGB")` of Pillow, which passes over colour profiles.
Four things go beyond it. Without the first three people would not find the picture that they see:

- The EXIF orientation is applied.
- Transparency is composited on white. `convert("RGB")` alone uncovers the colours below transparent pixels, which no
  viewer shows and which are mostly black: dark icons would vanish on them. Opaque pictures are not affected.
- 16-bit greys are scaled to 8 bits, where `convert("RGB")` clips nearly all of them to white.
- A JPEG can be decoded at a half, a quarter or an eighth of its size, as its DCT allows, at a fraction of the time.

Everything is bounded before it is allocated: bytes, the structure of the file (containers.py), the pixels that the
header tells. Metadata that cannot be read costs a picture its orientation and nothing else; pixels that are missing are
an error, never a picture in part.
"""

import functools
import io
import logging
from dataclasses import dataclass

import numpy as np
from PIL import AvifImagePlugin, ExifTags, Image, ImageFile, UnidentifiedImageError, features

from clip_search_server.encoder.containers import check_structure
from clip_search_server.encoder.libtiff import silence_libtiff
from clip_search_server.errors import InvalidArgumentError

__all__ = ["Box", "Decoded", "OpenedPicture", "PixelLimits", "decode_image", "image_formats", "open_picture"]

_LOG = logging.getLogger(__name__)

_FIELD = "image"

# Pillow would warn of large pictures through the process-wide warnings machinery, and refuse larger ones, by its own
# limit. The header check in `open_picture` replaces both with the operator's limit.
Image.MAX_IMAGE_PIXELS = None
# A picture with pixels missing is an error; should any part of the process ever say otherwise, it errs.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# Pictures are decoded side by side already.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

_WHITE = (255, 255, 255)
_EXIF_BYTES_MAX = 1 << 20
_RUN_LENGTH_BMP_BYTES_MAX = 1 << 20
"""Pillow decodes these runs in Python; larger files would hold the interpreter for seconds."""
_BMP_RUN_LENGTHS = {1, 2}

_BYTES_PER_PIXEL = 8
"""Of the picture as it is stored and as RGB, both held for a moment."""
_BYTES_PER_PROGRESSIVE_PIXEL = 6

_TEXT_SAMPLE_BYTES = 512
_ISO_MEDIA_BRAND = slice(4, 12)
_HEIF_BRANDS = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypheim", b"ftypheis", b"ftypmif1", b"ftypmsf1")
_AVIF_BRANDS = (b"ftypavif", b"ftypavis")

_REFUSED_MODES = {
    "F": "pictures of 32-bit floating-point pixels are not supported; save 8 bits.",
    "LAB": "pictures in the colour space Lab are not supported; save RGB.",
}

_T = Image.Transpose
_TRANSPOSITIONS = {
    2: _T.FLIP_LEFT_RIGHT,
    3: _T.ROTATE_180,
    4: _T.FLIP_TOP_BOTTOM,
    5: _T.TRANSPOSE,
    6: _T.ROTATE_270,
    7: _T.TRANSVERSE,
    8: _T.ROTATE_90,
}
"""What makes a picture of this EXIF orientation upright (EXIF 2.3, tag 0x0112)."""
_SWAPS_EDGES = {_T.TRANSPOSE, _T.ROTATE_270, _T.TRANSVERSE, _T.ROTATE_90}

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True)
class PixelLimits:
    """The largest picture that is accepted."""

    image_bytes_max: int
    image_pixels_max: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded picture, possibly smaller than it is.

    Attributes:
        image: RGB, upright, at full size or reduced.
        box: where in `image` the picture lies. Reduced by a factor that does not divide its edges, it ends within the
            last row or column.
        width, height: of the picture at full size, upright.
    """

    image: Image.Image
    box: Box
    width: int
    height: int

    @classmethod
    def of(cls, image: Image.Image) -> "Decoded":
        """Return an RGB picture at full size."""
        return cls(image, (0.0, 0.0, float(image.width), float(image.height)), image.width, image.height)


@functools.cache
def image_formats() -> tuple[str, ...]:
    """Return the formats that are decoded; Pillow's other decoders are not exposed to foreign bytes.

    Asked once, before the first picture is opened, it also makes the decoders ready. AVIF depends on how Pillow was
    built, HEIF on whether the package pi-heif is installed.
    """
    silence_libtiff()
    formats = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
    if features.check("avif"):
        formats.append("AVIF")
    try:
        import pi_heif  # noqa: PLC0415 - an extra
    except ImportError:
        return tuple(formats)
    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return (*formats, "HEIF")


class OpenedPicture:
    """A picture whose header is acceptable and whose pixels are not decoded yet. Make it with `open_picture`."""

    def __init__(self, image: Image.Image, limits: PixelLimits) -> None:
        self._image = image
        self._limits = limits
        self._box: Box | None = None
        self.width, self.height = image.size
        """As the header tells, before the orientation is applied."""

    def shrink(self, edge_min: int) -> None:
        """Let the picture be decoded reduced, where its format can: JPEG, both edges at least `edge_min` long."""
        drafted = self._image.draft(None, (edge_min, edge_min))  # None keeps the colours
        if drafted is not None:
            self._box = drafted[1]

    @property
    def decoding_bytes(self) -> int:
        """About how much memory decoding takes."""
        width, height = self._image.size
        reduced = _BYTES_PER_PIXEL * width * height
        if self._image.info.get("progressive"):  # The decoder keeps the coefficients of the whole picture.
            return reduced + _BYTES_PER_PROGRESSIVE_PIXEL * self.width * self.height
        return reduced

    def decode(self) -> Decoded:
        """Decode the picture.

        Raises:
            InvalidArgumentError: the field `image` is truncated or damaged.
        """
        image = self._image
        kind = image.format
        try:
            image.load()
            # The header of a HEIF file may have told another size than its pictures have.
            _check_pixels(image, self._limits)
            box = self._box or (0.0, 0.0, float(image.width), float(image.height))
            width, height = (self.width, self.height) if self._box else image.size
            rgb = _to_rgb(image)
            transposition = _transposition_of(image)
            if transposition is None:
                return Decoded(rgb, box, width, height)
            box = _transposed_box(box, rgb.width, rgb.height, transposition)
            if transposition in _SWAPS_EDGES:
                width, height = height, width
            return Decoded(rgb.transpose(transposition), box, width, height)
        except InvalidArgumentError:
            raise
        except Exception as error:  # Pillow's decoders raise a dozen types for damaged data.
            raise InvalidArgumentError(_FIELD, f"the {kind} picture is truncated or damaged ({error}).") from error


def open_picture(data: bytes, limits: PixelLimits) -> OpenedPicture:
    """Read the header of a picture.

    Args:
        data: the bytes of a file in one of `image_formats()`.
        limits: what is accepted.

    Raises:
        InvalidArgumentError: the field `image` is empty, too large, no picture, of another format, or hostile.
    """
    if not data:
        raise InvalidArgumentError(_FIELD, "the picture is empty (0 bytes).")
    if len(data) > limits.image_bytes_max:
        raise InvalidArgumentError(_FIELD, f"the picture has {len(data)} bytes; the limit is {limits.image_bytes_max}.")
    check_structure(data, image_pixels_max=limits.image_pixels_max)
    image = _read_header(data)
    _check_pixels(image, limits)
    if image.mode in _REFUSED_MODES:
        raise InvalidArgumentError(_FIELD, _REFUSED_MODES[image.mode])
    if (
        image.format == "BMP"
        and image.info.get("compression") in _BMP_RUN_LENGTHS
        and len(data) > _RUN_LENGTH_BMP_BYTES_MAX
    ):
        raise InvalidArgumentError(
            _FIELD,
            f"the BMP picture is run-length encoded and has {len(data)} bytes; of this kind the limit is "
            f"{_RUN_LENGTH_BMP_BYTES_MAX}; save it as PNG.",
        )
    return OpenedPicture(image, limits)


def decode_image(data: bytes, limits: PixelLimits) -> Image.Image:
    """Decode a picture to RGB at full size; errors as of `open_picture` and `OpenedPicture.decode`."""
    return open_picture(data, limits).decode().image


def _check_pixels(image: Image.Image, limits: PixelLimits) -> None:
    pixels = image.width * image.height
    if pixels > limits.image_pixels_max:
        raise InvalidArgumentError(
            _FIELD,
            f"the picture has {image.width} x {image.height} = {pixels} pixels; "
            f"the limit is {limits.image_pixels_max}.",
        )
    if pixels == 0:
        raise InvalidArgumentError(_FIELD, f"the picture has no pixels ({image.width} x {image.height}).")


def _read_header(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=image_formats())
    except UnidentifiedImageError as error:
        raise InvalidArgumentError(_FIELD, _describe_foreign_bytes(data)) from error
    except Exception as error:  # As when decoding: damaged headers raise a dozen types.
        raise InvalidArgumentError(_FIELD, f"the picture's header is damaged ({error}).") from error


def _describe_foreign_bytes(data: bytes) -> str:
    accepted = f"send one of {', '.join(image_formats())}."
    brand = data[_ISO_MEDIA_BRAND]
    if brand in _HEIF_BRANDS and "HEIF" not in image_formats():
        return f"HEIC pictures are not supported by this server (pip install 'clip-search[heif]'); {accepted}"
    if brand in _AVIF_BRANDS and "AVIF" not in image_formats():
        return f"AVIF pictures are not supported by this server's build of Pillow; {accepted}"
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
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        ground = Image.new("RGB", rgba.size, _WHITE)
        ground.paste(rgba, mask=rgba)
        return ground
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    grey = np.asarray(image)  # (height, width), of 16 bits, or 32 where the file's signs or width ask for them
    if grey.dtype != np.uint16:
        grey = np.clip(grey, 0, 0xFFFF)
    return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")


def _transposition_of(image: Image.Image) -> Image.Transpose | None:
    """Return what makes the picture upright, None where it is, or where its metadata cannot be read."""
    if len(image.info.get("exif") or b"") > _EXIF_BYTES_MAX:
        return None
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception as error:  # noqa: BLE001 - as damaged headers, and the picture itself is whole
        _LOG.debug("metadata that cannot be read: %s", type(error).__name__)  # its message may quote them
        return None
    return _TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None


def _transposed_box(box: Box, width: int, height: int, transposition: Image.Transpose) -> Box:
    """Return where `box` of an image of this size lies once the image is transposed."""
    left, top, right, bottom = box
    if transposition in {_T.FLIP_LEFT_RIGHT, _T.ROTATE_180, _T.TRANSVERSE, _T.ROTATE_90}:
        left, right = width - right, width - left
    if transposition in {_T.FLIP_TOP_BOTTOM, _T.ROTATE_180, _T.TRANSVERSE, _T.ROTATE_270}:
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if transposition in _SWAPS_EDGES else (left, top, right, bottom)
