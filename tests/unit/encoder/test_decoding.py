"""Decoding: a picture as people see it, whatever it is stored as, and one clear error for every bad one."""

import base64
import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from bench.scenes import draw_scene
from clip_search_server.encoder import decoding
from clip_search_server.encoder.decoding import PixelLimits, decode_image, image_formats, open_picture
from clip_search_server.errors import InvalidArgumentError
from tests.unit.encoder.hostile_files import chunk, encoded

LIMITS = PixelLimits(image_bytes_max=1_000_000, image_pixels_max=4_000_000)
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]
needs_heif = pytest.mark.skipif("HEIF" not in image_formats(), reason="the extra [heif] is not installed")

HEIC = zlib.decompress(
    base64.b85decode(
        "c-muNV30{GsVvAy%}izhg51nBLl8SRGck>Ufw3kxwIq=N0u(b+a*CjAhJwuG5(YG&l$nzcHpIn&fe{FSfN=qY1_CD_R?f`KO9S&j"
        "qM|@fDif5KQI>27V)7MamgK^f{K+gRDge@VG7FOPfpjTQnKL6ZNN56Bk=zG{KYxGxU|`^9P5|nVaA4$N{Qn=MfElEM8HD6^F*zgx"
        "B{iKG8PQ}GC^WK8d$n%Xvj>U`4m2<@@HBvgTatjP*<2V879Z>c+98~rpHq~VoKpc5<z-+4Dq#@GEG|feddvZeHIj1@K@QV^x?KcB"
        "|NsC01(0R}(pNw<5DOG!R%C)SGIMZn04a&gf?QY_1A~pVk%^hL1<3ZwO-TfWv7H9vdP&7aA{Fmrm+t?6D3jy6+x7>ATOU2+{qv4T"
        "@kxf)g_M<AUa~?9idHpjy=NkK;N|M<9^YG&H=As7i!nF=0K&FzQ2"
    )
)
"""A file of 40 by 20 pixels, blue on the left and red on the right: nothing that is installed can write one."""


def _decode(data: bytes) -> Image.Image:
    return decode_image(data, LIMITS)


def _photo(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.RandomState(seed).randint(0, 256, size=(9, 9, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _colour(image: Image.Image) -> tuple[int, ...]:
    return tuple(np.asarray(image)[0, 0].tolist())


def _oriented(picture: Image.Image, kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture, kind, exif=exif)


# --- Good pictures. ---


@pytest.mark.parametrize("kind", FORMATS)
def test_every_accepted_format_is_decoded(kind: str) -> None:
    """Each format gives RGB of the right size and about the right colour."""
    image = _decode(encoded(Image.new("RGB", (40, 30), (200, 100, 50)), kind))
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert np.abs(np.array(_colour(image)) - (200, 100, 50)).max() <= 4


@needs_heif
def test_heic_is_decoded_where_its_reader_is_installed() -> None:
    """The pictures of a phone are read like any other."""
    image = _decode(HEIC)
    assert image.size == (40, 20)
    assert np.abs(np.array(_colour(image)) - (0, 0, 255)).max() <= 20
    for end in (30, 200, len(HEIC) - 30):
        with pytest.raises(InvalidArgumentError):
            _decode(HEIC[:end])


def test_heic_without_its_reader_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install, not that the file is broken."""
    monkeypatch.setattr(decoding, "image_formats", lambda: ("JPEG",))
    with pytest.raises(InvalidArgumentError, match=r"HEIC .*clip-search\[heif\].*send one of JPEG\."):
        _decode(HEIC)


def test_a_picture_of_several_is_its_first() -> None:
    """Of an MPO, as phones write for depth and brightness, the picture itself is decoded."""
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
    assert np.abs(np.array(_colour(_decode(data))) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    """Of several frames the first is decoded."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(np.array(_colour(_decode(data))) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_orientation_of_a_camera_is_applied(kind: str, orientation: int) -> None:
    """However the camera was turned, the picture is upright, as Pillow's own tool turns it."""
    picture = Image.new("RGB", (48, 32), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 16, 16))
    picture.paste((0, 255, 0), (32, 16, 48, 32))
    data = _oriented(picture, kind, orientation)
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        wanted = ImageOps.exif_transpose(opened).convert("RGB")
    assert orientation < 5 or wanted.size == (32, 48)
    assert _decode(data).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_picture_lies_where_the_whole_one_does(orientation: int) -> None:
    """Scaled down, a JPEG decoded at an eighth shows what it shows at full size, whatever its edges and orientation."""
    data = _oriented(draw_scene(1, 1_205, 803), "JPEG", orientation)
    limits = PixelLimits(10**7, 10**7)
    opened = open_picture(data, limits)
    opened.shrink(100)
    reduced, whole = opened.decode(), open_picture(data, limits).decode()
    assert reduced.image.width * 7 < whole.image.width
    assert (reduced.width, reduced.height) == (whole.width, whole.height)
    small, wanted = (
        np.asarray(each.image.resize((20, 20), Image.Resampling.BICUBIC, box=each.box)).astype(int)
        for each in (reduced, whole)
    )
    assert np.abs(small - wanted).max() <= 2


def test_only_what_can_be_reduced_is() -> None:
    """A JPEG smaller than asked for, and a PNG of any size, are decoded at full size."""
    for data in (encoded(_photo(150, 150), "JPEG"), encoded(_photo(900, 900))):
        opened = open_picture(data, LIMITS)
        opened.shrink(100)
        assert opened.decode().image.size == (opened.width, opened.height)


def test_metadata_that_cannot_be_read_costs_nothing_but_itself() -> None:
    """A good picture with broken EXIF is a good picture."""
    picture = Image.new("RGB", (16, 16), (255, 0, 0))
    for exif in (b"Exif\0\0MM\0*\0\0\0\xff", b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _decode(encoded(picture, "JPEG", exif=exif))
        assert np.abs(np.array(_colour(image)) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_seen_on_white(mode: str) -> None:
    """Transparent pixels are white, whatever colour hides below them."""
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    data = encoded(picture.quantize() if mode == "PA" else picture.convert(mode))
    assert _colour(_decode(data)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_a_transparent_colour_is_seen_on_white(mode: str) -> None:
    """Where one colour stands for transparency, it is white."""
    picture = Image.new(mode, (8, 8))
    data = encoded(picture, transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert _colour(_decode(data)) == (255, 255, 255)


def test_half_transparency_is_blended_with_white() -> None:
    """A half-transparent black is grey."""
    assert _colour(_decode(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 128))))) == (127, 127, 127)


def test_opaque_alpha_changes_nothing() -> None:
    """An alpha channel that is opaque everywhere gives the pixels of the same picture without it."""
    picture = _photo(20, 20)
    assert _decode(encoded(picture.convert("RGBA"))).tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("P", "PNG"), ("L", "PNG"), ("1", "PNG"), ("L", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("P", "GIF")],
)
def test_every_colour_model_becomes_rgb(mode: str, kind: str) -> None:
    """The pixels are those that Pillow's `convert("RGB")`, and so the model's reference, makes of the same file."""
    data = encoded(_photo(40, 40).convert(mode), kind)
    with Image.open(io.BytesIO(data)) as opened:
        assert _decode(data).tobytes() == opened.convert("RGB").tobytes()


def test_inverted_cmyk_is_turned_round() -> None:
    """Adobe's JPEGs store CMYK inverted: a red picture is red, not cyan."""
    image = _decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(np.array(_colour(image)) - (255, 0, 0)).max() <= 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("shade", [0, 0x4000, 0xFFFF])
def test_sixteen_bit_greys_keep_their_shades(kind: str, shade: int) -> None:
    """A 16-bit grey is scaled to 8 bits, not clipped to white."""
    grey16 = Image.fromarray(np.full((8, 8), shade, dtype=np.uint16))
    assert _colour(_decode(encoded(grey16, kind))) == (shade >> 8,) * 3


def test_sixteen_bit_colours_keep_their_shades() -> None:
    """A PNG of 16 bits a colour is scaled to 8."""
    rows = b"".join(b"\0" + struct.pack(">HHH", 0x4000, 0x80FF, 0xFFFF) * 4 for _ in range(4))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert _colour(_decode(data)) == (0x40, 0x80, 0xFF)


def test_large_pictures_within_the_limit_pass_without_warnings() -> None:
    """A picture beyond Pillow's own limit, but within the operator's, is decoded and warns nobody."""
    data = encoded(Image.new("1", (12_000, 8_000)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode_image(data, PixelLimits(10**7, 10**8))
    assert image.size == (12_000, 8_000)


# --- Bad pictures. ---


def _claiming(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header claims this size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"a red bicycle", "text, not a picture; to search by words"),
        ("naïve rødgrød ".encode() * 60, "text, not a picture"),
        (bytes(range(256)) * 4, "not a picture that can be read"),
        (b"\0\0\0\x18ftypavif" + b"\0" * 40, "not a picture that can be read"),
        (b"%PDF-1.7\n" + bytes(range(256)), "not a picture"),
        (b"\0" * 1_000_001, r"1000001 bytes; the limit is 1000000"),
        (_claiming(30_000, 30_000), r"30000 x 30000 = 900000000 pixels; the limit is 4000000"),
        (_claiming(0, 0), "not a picture that can be read|damaged|no pixels"),
        (encoded(Image.new("F", (8, 8)), "TIFF"), "32-bit floating-point"),
        (encoded(Image.new("LAB", (8, 8)), "TIFF"), "colour space Lab"),
    ],
    ids=["empty", "text", "utf-8", "bytes", "avif", "pdf", "large", "bomb", "nothing", "float", "lab"],
)
def test_a_bad_picture_is_refused_with_the_reason(data: bytes, message: str) -> None:
    """Each kind of bad input is one error of the field `image` that says what is wrong."""
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        _decode(data)
    assert caught.value.field == "image"


@pytest.mark.parametrize("kind", ["PPM", "EPS", "ICO", "TGA", "PCX", "SGI", "DDS", "JPEG2000", "PDF"])
def test_formats_that_are_not_listed_are_not_tried(kind: str) -> None:
    """What Pillow could read but nobody sends as a photo is refused by its bytes."""
    with pytest.raises(InvalidArgumentError, match=r"send one of JPEG, PNG, WEBP, GIF, BMP, TIFF|text, not a picture"):
        _decode(encoded(Image.new("RGB", (32, 32)), kind))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_picture_is_an_error_never_a_part(kind: str, share: float) -> None:
    """Wherever an upload broke off, the picture is refused."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(InvalidArgumentError, match=r"truncated or damaged|header is damaged") as caught:
        _decode(data[: int(share * len(data))])
    assert caught.value.field == "image"


def test_a_reduced_picture_is_refused_when_truncated_too() -> None:
    """Decoding less of it than there is finds what is missing all the same."""
    data = encoded(draw_scene(2, 900, 600), "JPEG")
    for share in (0.3, 0.6, 0.9):
        opened = open_picture(data[: int(share * len(data))], LIMITS)
        opened.shrink(64)
        with pytest.raises(InvalidArgumentError, match="truncated"):
            opened.decode()


def test_decoders_do_not_write_to_the_servers_log(capfd: pytest.CaptureFixture[str]) -> None:
    """A damaged fax of a thousand rows does not fill anybody's disk with complaints."""
    data = bytearray(encoded(_photo(1_000, 1_000).convert("1"), "TIFF", compression="group4"))
    for place in range(20, 2_000, 7):
        data[place] ^= 0x55
    for _ in range(3):
        with contextlib.suppress(InvalidArgumentError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _decode(bytes(data))
    assert capfd.readouterr().err == ""


def test_the_memory_of_decoding_is_told_before() -> None:
    """A reduced JPEG needs little; a progressive one, whose coefficients are all kept, and a PNG need more."""
    picture = _photo(1_600, 1_200)
    needs = {}
    for name, data in (
        ("jpeg", encoded(picture, "JPEG")),
        ("progressive", encoded(picture, "JPEG", progressive=True)),
        ("png", encoded(picture)),
    ):
        opened = open_picture(data, LIMITS)
        opened.shrink(128)
        needs[name] = opened.decoding_bytes
    assert needs["jpeg"] * 10 < needs["progressive"] < needs["png"]
