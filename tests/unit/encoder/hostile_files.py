"""Picture files made to hurt a decoder: well formed to the eye of a parser, and ruinous to believe."""

import io
import struct
import zlib

from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(*chunks: bytes, width: int = 1, height: int = 1) -> bytes:
    """A PNG of one colour with these chunks before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = zlib.compress(b"\0" * min((3 * width + 1) * height, 1_000))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def png_text_bomb() -> bytes:
    """A PNG of some kilobytes with a text of 300 MB."""
    return png_of(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 300_000_000, 9)))


def png_of_many_chunks() -> bytes:
    """A PNG of two million empty texts."""
    return png_of(chunk(b"tEXt", b"a\0") * 2_000_000)


def jpeg(width: int = 64, height: int = 48, **options: object) -> bytes:
    """A JPEG of one colour."""
    return encoded(Image.new("RGB", (width, height), (200, 100, 50)), "JPEG", **options)


def jpeg_of_many_segments() -> bytes:
    """A JPEG with four million empty comments."""
    data = jpeg()
    return data[:2] + b"\xff\xfe\0\x02" * 4_000_000 + data[2:]


def jpeg_with_junk() -> bytes:
    """A JPEG with 16 MB of nothing between two segments."""
    data = jpeg()
    start = data.index(b"\xff\xdb")
    return data[:start] + b"\0" * 16_000_000 + data[start:]


def jpeg_of_much_exif() -> bytes:
    """A JPEG whose EXIF holds four million fractions."""
    fractions = 4_000_000
    directory = struct.pack("<HHHLL", 1, 0x011A, 5, fractions, 26) + b"\0" * 4
    block = b"II*\0\x08\0\0\0" + directory + b"\1\0\0\0" * 2 * fractions
    parts = [block[start : start + 65_000] for start in range(0, len(block), 65_000)]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts)
    data = encoded(Image.new("RGB", (8, 8)), "JPEG")
    return data[:2] + segments + data[2:]


def jpeg_of_many_scans(scans: int = 100_000) -> bytes:
    """A progressive JPEG whose last scan comes again and again, and nothing in it but its header."""
    data = jpeg(2_000, 2_000, progressive=True)
    start = data.rindex(b"\xff\xda")
    header = data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")]
    return data[:-2] + header * scans + b"\xff\xd9"


def gif() -> bytes:
    """A GIF of one colour."""
    return encoded(Image.new("P", (16, 16)), "GIF")


def gif_of_a_long_comment() -> bytes:
    """A GIF with a comment of 16 MB."""
    data = gif()
    start = 13 + (3 << (data[10] & 7) + 1)
    return data[:start] + b"\x21\xfe" + (b"\xff" + b"x" * 255) * 65_536 + b"\0" + data[start:]


def gif_with_junk() -> bytes:
    """A GIF with 8 MB of nothing before its frame."""
    data = gif()
    start = 13 + (3 << (data[10] & 7) + 1)
    return data[:start] + b"\0" * 8_000_000 + data[start:]


def tiff_of(*tags: tuple[int, int, int, int], tail: bytes = b"") -> bytes:
    """A TIFF of one directory: tag, type, count, value."""
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHLL", *tag) for tag in sorted(tags))
    return b"II*\0\x08\0\0\0" + directory + b"\0" * 4 + tail


_GREY = ((256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1))
"""A grey picture of 8 by 8 pixels, uncompressed."""


def tiff_of_many_strips() -> bytes:
    """A TIFF of 8 by 8 pixels in six million strips."""
    strips = 6_000_000
    place = 8 + 2 + 12 * 8 + 4
    tags = (*_GREY, (273, 4, strips, place), (278, 3, 1, 1), (279, 4, 1, 8))
    return tiff_of(*tags, tail=b"\0" * 4 * strips)


def tiff_of_large_tiles() -> bytes:
    """A TIFF of 8 by 8 pixels in a tile of four billion."""
    return tiff_of(*_GREY, (322, 4, 1, 65_535), (323, 4, 1, 65_535), (324, 4, 1, 8), (325, 4, 1, 8))


def tiff_of_many_tags() -> bytes:
    """A TIFF of sixty thousand tags."""
    return tiff_of(*_GREY, *((1_000 + number, 4, 1, 0) for number in range(60_000)))


def tiff_with_numbers_below() -> bytes:
    """A TIFF whose EXIF directory holds three million fractions."""
    fractions = 3_000_000
    place = 8 + 2 + 12 * 8 + 4
    exif = struct.pack("<HHHLL", 1, 0x829A, 5, fractions, place + 18) + b"\0" * 4
    tags = (*_GREY, (273, 4, 1, 8), (279, 4, 1, 64), (34665, 4, 1, place))
    return tiff_of(*tags, tail=exif + b"\1\0\0\0" * 2 * fractions)


def bmp_of_runs() -> bytes:
    """A BMP of millions of runs of one pixel."""
    width = height = 2_000
    runs = b"\x01\x05" * (width * height // 2)
    header = struct.pack("<LLLHHLLLLLL", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    start = 14 + len(header) + 1_024
    return b"BM" + struct.pack("<LLL", start + len(runs), 0, start) + header + b"\0" * 1_024 + runs
