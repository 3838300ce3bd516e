"""Date, camera and size out of pictures."""

import importlib.util
import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clip_search.indexing import photo_facts as module
from clip_search.indexing.photo_facts import photo_facts
from tests.unit.client.conftest import Program

MAKE, MODEL, ORIENTATION, DATE_TIME, EXIF_IFD = 0x010F, 0x0110, 0x0112, 0x0132, 0x8769
ORIGINAL, OFFSET_ORIGINAL = 0x9003, 0x9011


def picture(
    kind: str = "JPEG",
    tags: dict[int, Any] | None = None,
    details: dict[int, Any] | None = None,
    size: tuple[int, int] = (40, 30),
) -> bytes:
    """Make a picture with these tags."""
    exif = Image.Exif()
    for tag, value in (tags or {}).items():
        exif[tag] = value
    for tag, value in (details or {}).items():
        exif.get_ifd(EXIF_IFD)[tag] = value
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_a_picture_tells_date_camera_and_size(kind: str) -> None:
    """In every format that carries EXIF."""
    details = {ORIGINAL: "2024:05:31 12:30:00", OFFSET_ORIGINAL: "+02:00"}
    assert photo_facts(picture(kind, {MAKE: "Canon", MODEL: "EOS 5D"}, details)) == {
        "width": 40,
        "height": 30,
        "camera": "Canon EOS 5D",
        "taken": datetime(2024, 5, 31, 10, 30, tzinfo=UTC),
    }


def test_the_header_of_a_tiff_is_exif() -> None:
    """It tells of the picture's last change, at least."""
    assert photo_facts(picture("TIFF", {MODEL: "Scanner", DATE_TIME: "2024:05:31 12:30:00"})) == {
        "width": 40,
        "height": 30,
        "camera": "Scanner",
        "taken": datetime(2024, 5, 31, 12, 30, tzinfo=UTC),
    }


@pytest.mark.parametrize("kind", ["BMP", "GIF", "PNG"])
def test_a_picture_without_exif_tells_its_size(kind: str) -> None:
    """And nothing is made up."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3)).save(buffer, kind)
    assert photo_facts(buffer.getvalue()) == {"width": 4, "height": 3}


def test_the_size_is_that_of_the_upright_picture() -> None:
    """A camera held upright stores its picture lying, and a tag that turns it."""
    assert photo_facts(picture(tags={ORIENTATION: 6})) == {"width": 30, "height": 40}
    assert photo_facts(picture(tags={ORIENTATION: 3})) == {"width": 40, "height": 30}


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON CORPORATION\0", "NIKON D850 ", "NIKON CORPORATION NIKON D850"),
        ("", "Pixel 9", "Pixel 9"),
        ("Apple", None, "Apple"),
        ("x" * 500, "y", "x" * 200),
    ],
)
def test_maker_and_model_are_one_name(make: str, model: str | None, camera: str) -> None:
    """The maker is not said twice, padding is left out, and the length is bounded."""
    tags = {MAKE: make} | ({} if model is None else {MODEL: model})
    assert photo_facts(picture(tags=tags))["camera"] == camera


@pytest.mark.parametrize(
    ("tags", "details", "taken"),
    [
        ({DATE_TIME: "2024:05:31 12:30:00"}, {}, datetime(2024, 5, 31, 12, 30, tzinfo=UTC)),
        (
            {DATE_TIME: "2024:05:31 12:30:00"},
            {ORIGINAL: "0000:00:00 00:00:00"},
            datetime(2024, 5, 31, 12, 30, tzinfo=UTC),
        ),
        (
            {},
            {ORIGINAL: "2024:05:31 12:30:00", OFFSET_ORIGINAL: "somewhere"},
            datetime(2024, 5, 31, 12, 30, tzinfo=UTC),
        ),
        ({DATE_TIME: "yesterday"}, {}, None),
        ({DATE_TIME: "2024:02:31 12:30:00"}, {}, None),
    ],
)
def test_times_that_make_no_sense_are_left_out(
    tags: dict[int, Any], details: dict[int, Any], taken: datetime | None
) -> None:
    """The next best time is taken, and without an offset it is taken as UTC."""
    assert photo_facts(picture(tags=tags, details=details)).get("taken") == taken


@pytest.mark.parametrize("data", [b"", b"no picture", picture()[:100], picture("PNG")[:20], b"\xff\xd8\xff" * 1000])
def test_what_is_no_picture_has_no_facts(data: bytes) -> None:
    """It is the server that says what is wrong with it."""
    assert photo_facts(data) == {}


def test_a_picture_of_very_many_pixels_is_not_decoded() -> None:
    """Its header is believed, or it has no facts; nothing is warned of."""
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (60_000).to_bytes(4) + (60_000).to_bytes(4)
    assert photo_facts(bytes(data)) == {}
    data[16:24] = (10_000).to_bytes(4) + (10_000).to_bytes(4)
    assert photo_facts(bytes(data)) in ({}, {"width": 10_000, "height": 10_000})


def test_every_byte_of_exif_may_be_wrong() -> None:
    """Whatever breaks within it, nothing is raised."""
    good = picture(tags={MAKE: "Canon", MODEL: "EOS"}, details={ORIGINAL: "2024:05:31 12:30:00"})
    for position in range(len(good[:300])):
        for value in (0, 0x7F, 0xFF):
            photo_facts(good[:position] + bytes([value]) + good[position + 1 :])


def test_without_pillow_one_is_told_how_to_install_it(
    program: Program, photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures are stored all the same."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "PIL" else find_spec(name, *more)
    )
    module._image_module.cache_clear()
    try:
        result = program("index", str(photos("a.png")))
    finally:
        module._image_module.cache_clear()
    assert result.exit_code == 0
    assert result.stderr == "date, camera and size were not read: pip install 'clip-search[exif]'\n"
