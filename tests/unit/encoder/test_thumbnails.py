"""Thumbnails: small, upright, within their bounds."""

import io

import numpy as np
import pytest
from PIL import Image

from bench.scenes import draw_scene
from clip_search_server.encoder.decoding import Decoded, PixelLimits, open_picture
from clip_search_server.encoder.thumbnails import ThumbnailSettings, make_thumbnail
from tests.unit.encoder.hostile_files import encoded

LIMITS = PixelLimits(10**7, 10**7)


def _opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "WEBP"
    return image


@pytest.mark.parametrize(
    ("size", "wanted"), [((800, 600), (128, 96)), ((600, 800), (96, 128)), ((50, 20), (50, 20)), ((3_000, 2), (128, 1))]
)
def test_the_longest_edge_is_bounded_and_nothing_enlarged(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """The whole picture is shown, in its own shape, and a small one as it is."""
    data = make_thumbnail(Decoded.of(Image.new("RGB", size, "red")), ThumbnailSettings(128, 10**6))
    assert _opened(data).size == wanted


def test_a_thumbnail_of_a_reduced_picture_is_upright_and_of_the_right_shape() -> None:
    """What was decoded at an eighth, of a camera that was turned, looks like the picture itself."""
    exif = Image.Exif()
    exif[0x0112] = 6
    opened = open_picture(encoded(draw_scene(3, 1_205, 803), "JPEG", exif=exif), LIMITS)
    opened.shrink(100)
    reduced = opened.decode()
    thumbnail = _opened(make_thumbnail(reduced, ThumbnailSettings(90, 10**6))).convert("RGB")
    assert thumbnail.size == (60, 90)
    wanted = draw_scene(3, 1_205, 803).transpose(Image.Transpose.ROTATE_270).resize((60, 90))
    difference = np.asarray(thumbnail).astype(int) - np.asarray(wanted).astype(int)
    assert np.abs(difference).mean() < 6


@pytest.mark.parametrize(("bytes_max", "width"), [(100_000, 256), (20_000, 256), (5_000, 128), (500, 64)])
def test_bytes_are_bounded_first_by_quality_then_by_size(bytes_max: int, width: int) -> None:
    """A picture that is all noise gets a thumbnail too, as good as fits."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3)).astype(np.uint8)
    data = make_thumbnail(Decoded.of(Image.fromarray(noise)), ThumbnailSettings(256, bytes_max))
    assert 0 < len(data) <= bytes_max
    assert _opened(data).width == width


def test_no_thumbnail_is_better_than_one_that_breaks_the_limit() -> None:
    """Where not even sixteen pixels fit there is none."""
    assert make_thumbnail(Decoded.of(draw_scene(1, 300, 300)), ThumbnailSettings(256, 20)) == b""
