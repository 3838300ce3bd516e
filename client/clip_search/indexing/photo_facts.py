"""Reads date, camera and size out of a picture's own bytes (EXIF and headers); decodes no pixels.

    taken    when the picture was taken, as its camera's clock said; taken as UTC where the camera noted no offset
    camera   maker and model
    width, height   in pixels, as the picture is shown upright

Pillow does the reading, where it is installed (extra `[exif]`; whoever has the server or the exporter has it too), and
pi-heif, where that is, for HEIC. Without them, and of pictures that tell nothing or nonsense, there are no facts: the
server says which pictures cannot be used.
"""

import contextlib
import functools
import importlib
import importlib.util
import io
import re
import warnings
from datetime import UTC, datetime
from typing import Any

from clip_search.contents import AttributeValue

__all__ = ["can_read_facts", "photo_facts"]

_FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "PNG", "TIFF", "WEBP")

# Tags of Exif 2.32, and the values of the orientation that turn a picture by 90 degrees.
_MAKE, _MODEL, _ORIENTATION, _DATE_TIME, _EXIF_IFD = 0x010F, 0x0110, 0x0112, 0x0132, 0x8769
_DATE_TIME_ORIGINAL, _OFFSET_TIME, _OFFSET_TIME_ORIGINAL = 0x9003, 0x9010, 0x9011
_SIDEWAYS = frozenset({5, 6, 7, 8})

_EXIF_TIME = re.compile(r"([0-9]{4}):([0-9]{2}):([0-9]{2}) ([0-9]{2}:[0-9]{2}:[0-9]{2})")
_EXIF_OFFSET = re.compile(r"[-+][0-9]{2}:[0-9]{2}")
_CAMERA_CHARACTERS_MAX = 200


def can_read_facts() -> bool:
    """Tell whether what reads them is installed."""
    return importlib.util.find_spec("PIL") is not None


def photo_facts(picture: bytes) -> dict[str, AttributeValue]:
    """Give what a picture tells of itself, as attributes; none where it tells nothing that can be understood."""
    image_module = _image_module()
    if image_module is None:
        return {}
    try:
        with image_module.open(io.BytesIO(picture), formats=_formats()) as image:
            return _facts(image, _exif(image, image_module))
    except Exception:  # noqa: BLE001  # bytes of strangers: whatever they break in a parser, there are no facts
        return {}


@functools.cache
def _image_module() -> Any:  # noqa: ANN401  # PIL.Image, or None
    if not can_read_facts():
        return None
    from PIL import Image  # noqa: PLC0415  # an extra

    with contextlib.suppress(ImportError):
        importlib.import_module("pi_heif").register_heif_opener()
    # It is the server that decodes, and that says what is too large.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image


@functools.cache
def _formats() -> tuple[str, ...]:
    module = _image_module()
    module.init()
    return tuple(each for each in _FORMATS if each in module.OPEN)


def _exif(image: Any, image_module: Any) -> Any:  # noqa: ANN401  # PIL's Image and its module; gives its Exif
    if image.format == "TIFF":  # its header is EXIF
        return image.getexif()
    exif = image_module.Exif()
    with contextlib.suppress(Exception):  # without EXIF that makes sense, there still is a size
        exif.load(image.info.get("exif") or b"")  # getexif() would decode a PNG for it
    return exif


def _facts(image: Any, exif: Any) -> dict[str, AttributeValue]:  # noqa: ANN401  # PIL's Image and Exif
    width, height = image.size
    if exif.get(_ORIENTATION) in _SIDEWAYS and image.format != "HEIF":  # pi-heif has turned it
        width, height = height, width
    facts: dict[str, AttributeValue] = {"width": width, "height": height}
    with contextlib.suppress(Exception):  # each value may be of any kind
        if camera := _camera(exif.get(_MAKE), exif.get(_MODEL)):
            facts["camera"] = camera
    with contextlib.suppress(Exception):
        if taken := _taken(exif):
            facts["taken"] = taken
    return facts


def _camera(make: object, model: object) -> str:
    maker, name = (" ".join(each.replace("\0", " ").split()) if isinstance(each, str) else "" for each in (make, model))
    both = name if name.lower().startswith(maker.lower()) else f"{maker} {name}"
    return both.strip()[:_CAMERA_CHARACTERS_MAX]


def _taken(exif: Any) -> datetime | None:  # noqa: ANN401  # PIL's Exif
    details = exif.get_ifd(_EXIF_IFD)
    for text, offset in (
        (details.get(_DATE_TIME_ORIGINAL), details.get(_OFFSET_TIME_ORIGINAL)),
        (exif.get(_DATE_TIME), details.get(_OFFSET_TIME)),
    ):
        match = _EXIF_TIME.match(text) if isinstance(text, str) else None
        if match is None:
            continue
        known_offset = _EXIF_OFFSET.fullmatch(offset.strip("\0 ")) if isinstance(offset, str) else None
        try:
            moment = datetime.fromisoformat(
                f"{match[1]}-{match[2]}-{match[3]}T{match[4]}{known_offset[0] if known_offset else '+00:00'}"
            )
        except ValueError:  # 0000:00:00, the clock of a camera that was never set
            continue
        return moment.astimezone(UTC)
    return None
