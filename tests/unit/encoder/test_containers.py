"""Files with more parts than any picture has are refused at once, and the files that people have are not."""

import time
from collections.abc import Callable

import pytest
from PIL import Image

from clip_search_server.encoder.containers import check_structure
from clip_search_server.encoder.decoding import PixelLimits, decode_image
from clip_search_server.errors import InvalidArgumentError
from tests.unit.encoder import hostile_files
from tests.unit.encoder.hostile_files import encoded

LIMITS = PixelLimits(image_bytes_max=32 * 2**20, image_pixels_max=100_000_000)
SECONDS_MAX = 2.0
"""Refusing takes milliseconds; believing the worst of these files takes minutes and gigabytes."""

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG text of 300 MB": (hostile_files.png_text_bomb, "header is damaged.*too large"),
    "PNG of 2,000,000 chunks": (hostile_files.png_of_many_chunks, "PNG picture has more than 16,384 chunks"),
    "JPEG of 4,000,000 segments": (hostile_files.jpeg_of_many_segments, "JPEG picture has more than 4,096 segments"),
    "JPEG with 16 MB of junk": (hostile_files.jpeg_with_junk, "more than 65,536 bytes between two segments"),
    "JPEG with 32 MB of EXIF": (hostile_files.jpeg_of_much_exif, "more than 32 EXIF blocks"),
    "JPEG of 100,000 scans": (hostile_files.jpeg_of_many_scans, "more than 64 scans"),
    "GIF with a comment of 16 MB": (hostile_files.gif_of_a_long_comment, "more than 16,384 blocks before"),
    "GIF with 8 MB of junk": (hostile_files.gif_with_junk, "more than 16,384 blocks before"),
    "TIFF of 6,000,000 strips": (hostile_files.tiff_of_many_strips, "6,000,000 numbers in tag 273"),
    "TIFF with a tile of 4 gigapixels": (hostile_files.tiff_of_large_tiles, "tiles of 4294836225 pixels; the limit"),
    "TIFF of 60,000 tags": (hostile_files.tiff_of_many_tags, "has 60,005 tags"),
    "TIFF with 3,000,000 fractions in its EXIF": (hostile_files.tiff_with_numbers_below, "numbers in tag 33434"),
    "BMP of 2,000,000 runs": (hostile_files.bmp_of_runs, "run-length encoded and has"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_of_too_many_parts_is_refused_at_once(name: str) -> None:
    """The error says what there is too much of, and comes in a moment."""
    make, message = HOSTILE[name]
    data = make()
    started = time.monotonic()
    with pytest.raises(InvalidArgumentError, match=message) as refused:
        decode_image(data, LIMITS)
    assert refused.value.field == "image"
    assert time.monotonic() - started < SECONDS_MAX


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"])
def test_pictures_that_people_have_pass(kind: str) -> None:
    """A picture with metadata is nothing special."""
    exif = Image.Exif()
    exif[0x010E] = "a description" * 1_000
    exif.get_ifd(0x8769)[0x9286] = b"a comment" * 1_000
    check_structure(encoded(Image.new("RGB", (600, 400)), kind, exif=exif), image_pixels_max=10**6)


def test_progressive_pictures_pass() -> None:
    """The ten scans of a progressive JPEG, and those of pictures inside it, are not many."""
    data = hostile_files.jpeg(300, 200, progressive=True)
    assert data.count(b"\xff\xda") > 5
    thumbnail = b"\xff\xe2" + (len(data) + 2).to_bytes(2, "big") + data
    check_structure(data[:2] + thumbnail * 12 + data[2:], image_pixels_max=10**6)


def test_what_lies_behind_a_picture_is_not_counted() -> None:
    """Phones put videos behind pictures, and chance puts the bytes of scans there."""
    check_structure(hostile_files.jpeg() + b"\xff\xda" * 1_000, image_pixels_max=10**6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF"])
def test_a_file_cut_short_is_left_to_the_decoder(kind: str) -> None:
    """Wherever it ends, the structure alone is no reason to refuse it."""
    data = encoded(Image.new("RGB", (60, 40)), kind)
    for end in range(len(data)):
        check_structure(data[:end], image_pixels_max=10**6)
