"""Pictures of every format to mutate, and what a mutated one is put through: all that comes before a model."""

import io
import random
import struct
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from clip_search_server.bundle import ImagePreprocessing
from clip_search_server.encoder.decoding import PixelLimits, image_formats
from clip_search_server.encoder.pixels import open_for_model, scale
from clip_search_server.encoder.thumbnails import ThumbnailSettings, make_thumbnail
from clip_search_server.errors import InvalidArgumentError
from tests.faults.mutation import mutate, with_right_checksums
from tests.unit.encoder.test_decoding import HEIC

PREPROCESSING = ImagePreprocessing(32, "shortest", "bicubic", "floor", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LIMITS = PixelLimits(image_bytes_max=10**6, image_pixels_max=4_000_000)
_THUMBNAILS = ThumbnailSettings(32, 10**5)
_DECODING_BYTES_MAX = 16 * LIMITS.image_pixels_max
"""Of what may be accepted; the child's bound on memory would show more."""


def make(kinds: Sequence[str]) -> Callable[[int], None]:
    """Return what decodes, scales and shrinks the mutated picture of a number."""
    seeds = [data for kind in kinds for data in _SEEDS[kind]()]

    def run(number: int) -> None:
        data = mutated(number, seeds)
        try:
            opened = open_for_model(data, PREPROCESSING, LIMITS)
            assert opened.decoding_bytes <= _DECODING_BYTES_MAX
            decoded = opened.decode()
        except InvalidArgumentError as error:
            if error.field != "image" or isinstance(error.__cause__, MemoryError):
                raise AssertionError(f"refused for another reason than the picture: {error!r}") from error
            raise
        assert scale(decoded, PREPROCESSING).shape == (32, 32, 3)
        assert len(make_thumbnail(decoded, _THUMBNAILS)) <= _THUMBNAILS.bytes_max

    return run


def mutated(number: int, seeds: Sequence[bytes]) -> bytes:
    """Return the picture of a number; of PNGs most have checksums that are right."""
    chance = random.Random(number)
    data = mutate(seeds, chance)
    return with_right_checksums(data) if chance.random() < 0.8 else data


def all_seeds() -> list[bytes]:
    """Return whole pictures of every format that can be read."""
    return [data for kind in kinds() for data in _SEEDS[kind]()]


def kinds() -> list[str]:
    """Return the formats that can be read here."""
    return [kind for kind in _SEEDS if kind in image_formats()]


def _photo(mode: str = "RGB") -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((56, 40), Image.Resampling.BICUBIC).convert(mode)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    exif.get_ifd(0x8769)[0x9286] = b"a comment"
    return exif


def _frames() -> list[Image.Image]:
    return [_photo().rotate(90 * turn) for turn in (1, 2)]


def _jpegs() -> list[bytes]:
    return [
        _saved(_photo(), "JPEG", exif=_exif(), icc_profile=b"profile" * 30),
        _saved(_photo(), "JPEG", progressive=True, subsampling=0),
        _saved(_photo("L"), "JPEG", comment=b"words"),
        _saved(_photo("CMYK"), "JPEG", quality=30),
        _saved(_photo(), "JPEG", restart_marker_blocks=2),
        _saved(_photo(), "MPO", save_all=True, append_images=_frames()),
        # So large that it is decoded reduced.
        _saved(_photo().resize((1_100, 600)), "JPEG", quality=10),
    ]


def _pngs() -> list[bytes]:
    grey16 = Image.fromarray(np.asarray(_photo("L")).astype(np.uint16) * 257)
    return [
        _saved(_photo(), "PNG", exif=_exif()),
        _saved(_photo("RGBA"), "PNG", icc_profile=b"profile" * 30),
        _saved(_photo("LA"), "PNG"),
        _saved(_photo().quantize(40), "PNG", transparency=3),
        _saved(_photo("1"), "PNG"),
        _saved(grey16, "PNG"),
        _saved(_photo(), "PNG", save_all=True, append_images=_frames()),
    ]


def _webps() -> list[bytes]:
    return [
        _saved(_photo(), "WEBP", exif=_exif()),
        _saved(_photo("RGBA"), "WEBP", lossless=True),
        _saved(_photo(), "WEBP", save_all=True, append_images=_frames()),
    ]


def _gifs() -> list[bytes]:
    return [
        _saved(_photo().quantize(60), "GIF", comment=b"words" * 80),
        _saved(_photo("L"), "GIF", transparency=7, interlace=True),
        _saved(_photo(), "GIF", save_all=True, append_images=_frames(), loop=0),
    ]


def _bmps() -> list[bytes]:
    runs = bytes([20, 1, 0, 3, 4, 5, 6, 0, 33, 2, 0, 0]) * 40 + b"\0\1"
    header = struct.pack("<LLLHHLLLLLL", 40, 56, 40, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = 14 + len(header) + 1_024
    palette = bytes(range(256)) * 4
    run_length = b"BM" + struct.pack("<LLL", start + len(runs), 0, start) + header + palette + runs
    return [_saved(_photo(mode), "BMP") for mode in ("RGB", "L", "1", "RGBA")] + [run_length]


def _tiffs() -> list[bytes]:
    compressions = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    grey16 = Image.fromarray(np.asarray(_photo("L")).astype(np.uint16) * 257)
    return [
        *(_saved(_photo(), "TIFF", compression=compression, exif=_exif()) for compression in compressions),
        _saved(_photo("1"), "TIFF", compression="group4"),
        _saved(_photo("CMYK"), "TIFF"),
        _saved(_photo("RGBA"), "TIFF", compression="tiff_lzw"),
        _saved(grey16, "TIFF"),
        _saved(_photo(), "TIFF", save_all=True, append_images=_frames()),
        _saved(_photo(), "TIFF", big_tiff=True),
    ]


def _avifs() -> list[bytes]:
    return [
        _saved(_photo(), "AVIF", quality=30, exif=_exif()),
        _saved(_photo("RGBA"), "AVIF", quality=30),
        _saved(_photo(), "AVIF", save_all=True, append_images=_frames(), quality=20),
    ]


_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "JPEG": _jpegs,
    "PNG": _pngs,
    "WEBP": _webps,
    "GIF": _gifs,
    "BMP": _bmps,
    "TIFF": _tiffs,
    "AVIF": _avifs,
    "HEIF": lambda: [HEIC],
}
