"""Preprocessing: the reference's pixels, exactly or, of large JPEGs, as good as."""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.bench_pixels import centred_cosines
from bench.scenes import draw_scene
from clip_search_export.exporter import export
from clip_search_server.bundle import Bundle, ImagePreprocessing
from clip_search_server.encoder.decoding import PixelLimits, decode_image
from clip_search_server.encoder.pixels import SHRUNK_EDGE_MIN, load_pixels, open_for_model, preprocess
from clip_search_server.encoder.sessions import OrtImageTower, choose_device
from clip_search_server.errors import InvalidArgumentError
from tests.unit.encoder.hostile_files import encoded

PREPROCESSING = ImagePreprocessing(32, "shortest", "bicubic", "floor", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LIMITS = PixelLimits(image_bytes_max=1_000_000, image_pixels_max=4_000_000)


def _photo(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.RandomState(seed).randint(0, 256, size=(9, 9, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("size", "resized"),
    [((64, 48), (42, 32)), ((48, 65), (32, 43)), ((33, 32), (33, 32)), ((100, 7), (457, 32)), ((32, 32), (32, 32))],
)
@pytest.mark.parametrize(("crop", "corner"), [("floor", lambda n: n // 2), ("round", lambda n: round(n / 2))])
def test_pictures_are_scaled_and_cropped_as_the_reference_does(
    size: tuple[int, int], resized: tuple[int, int], crop: str, corner: Callable[[int], int]
) -> None:
    """The shortest edge is scaled, the long one rounded down, and the centre cropped with the reference's rounding."""
    picture = _photo(*size)
    scaled = np.asarray(picture.resize(resized, Image.Resampling.BICUBIC))
    left, top = corner(resized[0] - 32), corner(resized[1] - 32)
    expected = scaled[top : top + 32, left : left + 32]
    preprocessing = dataclasses.replace(PREPROCESSING, crop=crop)  # type: ignore[arg-type]
    assert np.array_equal(preprocess(picture, preprocessing), expected)


def test_the_two_roundings_of_the_crop_differ_where_they_should() -> None:
    """A surplus of 3 pixels is cropped at 1 by transformers and at 2 by torchvision."""
    picture = _photo(35, 32)
    floor = preprocess(picture, PREPROCESSING)
    rounded = preprocess(picture, dataclasses.replace(PREPROCESSING, crop="round"))
    assert np.array_equal(floor, np.asarray(picture)[:, 1:33])
    assert np.array_equal(rounded, np.asarray(picture)[:, 2:34])


def test_squashing_ignores_the_aspect_ratio() -> None:
    """With `squash` the whole picture is resized to the square, with the filter asked for."""
    picture = _photo(90, 40)
    squash = dataclasses.replace(PREPROCESSING, resize_mode="squash", interpolation="bilinear", crop="none")
    expected = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(preprocess(picture, squash), expected)


def test_one_pixel_is_a_picture() -> None:
    """A 1x1 picture fills the square with its colour."""
    pixels = load_pixels(encoded(Image.new("RGB", (1, 1), (9, 8, 7))), PREPROCESSING, LIMITS)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == (9, 8, 7)).all()


def test_a_line_is_refused_before_it_is_scaled() -> None:
    """A picture of 20,000 by 1 pixels would be scaled to 143 million: it is refused for its shape."""
    preprocessing = dataclasses.replace(PREPROCESSING, size=224)
    with pytest.raises(InvalidArgumentError, match=r"too long and thin \(20000 x 1 pixels\).*crop it"):
        load_pixels(encoded(Image.new("RGB", (20_000, 1))), preprocessing, LIMITS)


def test_a_line_can_be_squashed() -> None:
    """Where the aspect ratio is ignored, a picture of 20,000 by 1 pixels is as good as any."""
    squash = dataclasses.replace(PREPROCESSING, resize_mode="squash", crop="none")
    assert load_pixels(encoded(Image.new("RGB", (20_000, 1))), squash, LIMITS).shape == (32, 32, 3)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]),
    place=st.floats(0, 1, exclude_max=True),
    change=st.integers(1, 255),
    keep=st.floats(0.1, 1),
)
def test_damaged_pictures_never_raise_anything_else(kind: str, place: float, change: int, keep: float) -> None:
    """Whatever bytes are flipped or cut off, the result is pixels or an InvalidArgumentError."""
    data = bytearray(encoded(_photo(40, 30), kind))
    data[int(place * len(data))] ^= change
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata
        try:
            pixels = load_pixels(bytes(data[: max(1, int(keep * len(data)))]), PREPROCESSING, LIMITS)
        except InvalidArgumentError:
            return
    assert pixels.shape == (32, 32, 3)


def test_pictures_below_the_bound_give_the_references_pixels_exactly() -> None:
    """A JPEG that is decoded at full size, and any other format of any size, is not changed by how it came here."""
    small = encoded(_photo(2 * SHRUNK_EDGE_MIN - 2, 600), "JPEG")
    for data in (small, encoded(_photo(1_500, 1_200)), encoded(_photo(1_500, 1_200), "WEBP")):
        exact = preprocess(decode_image(data, LIMITS), PREPROCESSING)
        assert np.array_equal(load_pixels(data, PREPROCESSING, LIMITS), exact)


def test_preprocessing_does_not_depend_on_the_way_a_picture_came() -> None:
    """The same pixels as PNG, lossless WebP, TIFF or BMP, with an alpha channel or turned, are the same to the model.

    Users of other servers found stored and queried embeddings of one picture apart, at a cosine of 0.94
    (clip-as-service #904), and stored and recomputed ones (clip-retrieval #264).
    """
    picture = _photo(90, 70)
    exif = Image.Exif()
    exif[0x0112] = 6
    ways = [
        encoded(picture, "PNG"),
        encoded(picture, "TIFF"),
        encoded(picture, "BMP"),
        encoded(picture, "WEBP", lossless=True),
        encoded(picture.convert("RGBA"), "PNG"),
        encoded(picture.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif),
    ]
    exact = preprocess(picture, PREPROCESSING)
    assert all(np.array_equal(load_pixels(way, PREPROCESSING, LIMITS), exact) for way in ways)


def test_no_more_of_a_photo_is_decoded_than_the_model_needs() -> None:
    """Of twelve megapixels a sixty-fourth is, and no edge is shorter than twice the square's.

    Preprocessing took 70 ms elsewhere, for a model of 8 ms (Triton #5082).
    """
    data = encoded(Image.new("RGB", (4_000, 3_000)), "JPEG")
    limits = PixelLimits(10**7, 10**8)
    for size, wanted in ((96, (500, 375)), (224, (1_000, 750)), (512, (2_000, 1_500)), (1_000, (4_000, 3_000))):
        opened = open_for_model(data, dataclasses.replace(PREPROCESSING, size=size), limits)
        assert opened.decode().image.size == wanted


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    """JPEGs of drawn scenes, of several sizes, qualities and chroma subsamplings."""
    scenes = [
        draw_scene(number, *size)
        for count, size in ((2, (4_000, 3_000)), (4, (1_920, 1_280)), (8, (640, 480)), (4, (3_000, 520)))
        for number in range(count)
    ]
    return [
        encoded(scene, "JPEG", quality=quality, subsampling=subsampling)
        for scene in scenes
        for quality, subsampling in ((60, 2), (90, 0))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["demo", "demo-vit"])
def test_embeddings_of_reduced_pictures_are_those_of_whole_ones(
    tmp_path: Path, photos: list[bytes], source: str
) -> None:
    """Centred cosines with the reference are 0.999 on average and 0.99 at least, whatever size, quality and colours."""
    export(source, tmp_path / "bundle")
    model = Bundle.open(tmp_path / "bundle")
    preprocessing = model.manifest.image_preprocessing
    limits = PixelLimits(32 * 2**20, 10**8)
    exact = np.stack([preprocess(decode_image(data, limits), preprocessing) for data in photos])
    reduced = np.stack([load_pixels(data, preprocessing, limits) for data in photos])
    assert not np.array_equal(exact, reduced)
    tower = OrtImageTower(model, "fp16", choose_device("cpu"))
    cosines = centred_cosines(tower.run(exact), tower.run(reduced))
    assert cosines.mean() >= 0.999
    assert cosines.min() >= 0.99
