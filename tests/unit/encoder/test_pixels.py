"""Decoding and preprocessing: the reference's pixels for good pictures, one clear error for every bad one."""

import dataclasses
import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_search_server.bundle import ImagePreprocessing
from clip_search_server.encoder.pixels import PixelLimits, decode_image, load_pixels, preprocess
from clip_search_server.errors import InvalidArgumentError

PREPROCESSING = ImagePreprocessing(32, "shortest", "bicubic", "floor", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LIMITS = PixelLimits(image_bytes_max=1_000_000, image_pixels_max=4_000_000)


def _encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _decode(data: bytes) -> Image.Image:
    return decode_image(data, image_bytes_max=LIMITS.image_bytes_max, image_pixels_max=LIMITS.image_pixels_max)


def _photo(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.RandomState(seed).randint(0, 256, size=(9, 9, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _colour(image: Image.Image) -> tuple[int, ...]:
    return tuple(np.asarray(image)[0, 0].tolist())


# --- Good pictures. ---


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_accepted_format_is_decoded(kind: str) -> None:
    """Each format gives RGB of the right size and about the right colour."""
    image = _decode(_encode(Image.new("RGB", (40, 30), (200, 100, 50)), kind))
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert np.abs(np.array(_colour(image)) - (200, 100, 50)).max() <= 4


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


def test_the_orientation_of_a_camera_is_applied() -> None:
    """A picture taken with the camera turned is embedded upright."""
    picture = Image.new("RGB", (40, 20), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 20, 20))  # blue on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    upright = _decode(_encode(picture, exif=exif))
    assert upright.size == (20, 40)
    assert _colour(upright) == (0, 0, 255)
    assert np.asarray(upright)[-1, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_seen_on_white(mode: str) -> None:
    """Transparent pixels are white, whatever colour hides below them."""
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    data = _encode(picture.quantize() if mode == "PA" else picture.convert(mode))
    assert _colour(_decode(data)) == (255, 255, 255)


def test_half_transparency_is_blended_with_white() -> None:
    """A half-transparent black is grey."""
    assert _colour(_decode(_encode(Image.new("RGBA", (8, 8), (0, 0, 0, 128))))) == (127, 127, 127)


def test_opaque_alpha_changes_nothing() -> None:
    """An alpha channel that is opaque everywhere gives the pixels of the same picture without it."""
    picture = _photo(20, 20)
    assert _decode(_encode(picture.convert("RGBA"))).tobytes() == picture.tobytes()


def test_palettes_greys_and_cmyk_become_rgb() -> None:
    """Every colour model gives the RGB that Pillow converts it to."""
    photo = _photo(20, 20)
    for picture, kind in ((photo.quantize(16), "PNG"), (photo.convert("L"), "PNG"), (photo.convert("1"), "PNG")):
        assert _decode(_encode(picture, kind)).tobytes() == picture.convert("RGB").tobytes()
    cmyk = photo.convert("CMYK")
    assert _decode(_encode(cmyk, "TIFF")).tobytes() == cmyk.convert("RGB").tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_greys_keep_their_shades(kind: str) -> None:
    """A 16-bit grey is scaled to 8 bits, not clipped to white."""
    grey16 = Image.fromarray(np.full((8, 8), 0x4000, dtype=np.uint16))
    assert _colour(_decode(_encode(grey16, kind))) == (0x40, 0x40, 0x40)


def test_an_animation_is_its_first_frame() -> None:
    """Of a GIF with several frames the first is decoded."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    data = _encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert _colour(_decode(data)) == (255, 0, 0)


def test_one_pixel_is_a_picture() -> None:
    """A 1x1 picture fills the square with its colour."""
    pixels = load_pixels(_encode(Image.new("RGB", (1, 1), (9, 8, 7))), PREPROCESSING, LIMITS)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == (9, 8, 7)).all()


# --- Bad pictures. ---


def _bomb() -> bytes:
    """A PNG of a few hundred bytes whose header promises 900 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"a red bicycle", "text, not a picture; to search by words"),
        ("naïve rødgrød ".encode() * 60, "text, not a picture"),
        (bytes(range(256)) * 4, "not a picture that can be read"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "HEIC and AVIF pictures are not supported"),
        (b"%PDF-1.7\n" + bytes(range(256)), "not a picture"),
        (_encode(Image.new("RGB", (20, 20)), "PPM"), "send one of JPEG, PNG, WEBP, GIF, BMP, TIFF"),
        (_encode(_photo(200, 200))[:2000], "truncated or damaged"),
        (_encode(_photo(200, 200), "JPEG")[:1500], "truncated or damaged"),
        (b"\0" * 1_000_001, r"1000001 bytes; the limit is 1000000"),
        (_bomb(), r"30000 x 30000 = 900000000 pixels; the limit is 4000000"),
        (_encode(Image.new("F", (8, 8)), "TIFF"), "32-bit floating-point"),
    ],
    ids=["empty", "text", "utf-8", "bytes", "heic", "pdf", "ppm", "png", "jpeg", "large", "bomb", "float"],
)
def test_a_bad_picture_is_refused_with_the_reason(data: bytes, message: str) -> None:
    """Each kind of bad input is one error of the field `image` that says what is wrong."""
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        load_pixels(data, PREPROCESSING, LIMITS)
    assert caught.value.field == "image"


def test_a_line_is_refused_before_it_is_scaled() -> None:
    """A picture of 20,000 by 1 pixels would be scaled to 143 million: it is refused for its shape."""
    preprocessing = dataclasses.replace(PREPROCESSING, size=224)
    with pytest.raises(InvalidArgumentError, match=r"too long and thin \(20000 x 1 pixels\).*crop it"):
        load_pixels(_encode(Image.new("RGB", (20_000, 1))), preprocessing, LIMITS)


def test_a_line_can_be_squashed() -> None:
    """Where the aspect ratio is ignored, a picture of 20,000 by 1 pixels is as good as any."""
    squash = dataclasses.replace(PREPROCESSING, resize_mode="squash", crop="none")
    assert load_pixels(_encode(Image.new("RGB", (20_000, 1))), squash, LIMITS).shape == (32, 32, 3)


def test_large_pictures_within_the_limit_pass_without_warnings() -> None:
    """A picture beyond Pillow's own limit, but within the operator's, is decoded and warns nobody."""
    data = _encode(Image.new("1", (12_000, 8_000)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode_image(data, image_bytes_max=10**7, image_pixels_max=10**8)
    assert image.size == (12_000, 8_000)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]),
    place=st.floats(0, 1, exclude_max=True),
    change=st.integers(1, 255),
    keep=st.floats(0.1, 1),
)
def test_damaged_pictures_never_raise_anything_else(kind: str, place: float, change: int, keep: float) -> None:
    """Whatever bytes are flipped or cut off, the result is pixels or an InvalidArgumentError."""
    data = bytearray(_encode(_photo(40, 30), kind))
    data[int(place * len(data))] ^= change
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata
        try:
            pixels = load_pixels(bytes(data[: max(1, int(keep * len(data)))]), PREPROCESSING, LIMITS)
        except InvalidArgumentError:
            return
    assert pixels.shape == (32, 32, 3)
