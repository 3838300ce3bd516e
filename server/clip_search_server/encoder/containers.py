"""Bounds the structure of picture files before a decoder reads it; knows nothing of pixels.

Decoders walk through metadata with few bounds of their own, and some work is repeated for each part that a file claims
to have: a few megabytes of nothing but parts would cost minutes of time or gigabytes of memory. Files that people have
stay far below these bounds:

    JPEG  segments before the picture, junk between them, EXIF blocks, scans (each runs over the whole picture)
    PNG   chunks
    GIF   blocks before the first frame
    TIFF  numbers in a tag, tags in a directory, pixels of a tile

What is cut short or makes no sense here is left for the decoder to refuse.
"""

import re
import struct
from collections.abc import Iterator

from clip_search_server.errors import InvalidArgumentError

__all__ = ["check_structure"]

_FIELD = "image"

_JPEG_SEGMENTS_MAX = 4_096
_JPEG_JUNK_BYTES_MAX = 65_536
_JPEG_EXIF_BLOCKS_MAX = 32
_JPEG_SCANS_MAX = 64
_PNG_CHUNKS_MAX = 16_384
_GIF_BLOCKS_MAX = 16_384
_TIFF_NUMBERS_MAX = 131_072
_TIFF_TAGS_MAX = 4_096

# Inside a scan, 0xFF stands for itself before 0x00 and for a restart before 0xD0 to 0xD7; 0xFF before 0xFF is filling.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_JPEG_WITHOUT_LENGTH = {0x01, 0xCC, 0xD8}
"""TEM and SOI have none; Pillow does not skip DAC, 0xCC, so neither does this."""
_JPEG_REFUSED = {*range(0x02, 0xC0), 0xC8, *range(0xF0, 0xFE)}
"""libjpeg knows no such markers and refuses them."""
_SOS, _EOI = 0xDA, 0xD9

_GIF_EXTENSION, _GIF_IMAGE, _GIF_END = 0x21, 0x2C, 0x3B

_BIG_TIFF = 43
"""In place of TIFF's 42: offsets and counts have 8 bytes."""
_TIFF_BYTES_TYPES = {1, 2, 6, 7}
_TIFF_DIRECTORIES = {34665, 34853, 40965}
"""Tags that lead to a further directory: EXIF, GPS, interoperability."""
_TIFF_DIRECTORIES_MAX = 8
_TILE_WIDTH, _TILE_LENGTH = 322, 323


def check_structure(data: bytes, *, image_pixels_max: int) -> None:
    """Raise InvalidArgumentError of the field `image` where a file has more parts than a decoder should walk through.

    Files of other formats than JPEG, PNG, GIF and TIFF pass.
    """
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(b"\x89PNG"):
        _check_count("PNG", "chunks", _PNG_CHUNKS_MAX, _png_chunks(data))
    elif data.startswith(b"GIF8"):
        _check_count("GIF", "blocks before its first frame", _GIF_BLOCKS_MAX, _gif_blocks(data))
    elif data.startswith((b"II", b"MM")):
        try:
            _check_tiff(data, image_pixels_max)
        except struct.error:
            return


def _check_count(kind: str, parts: str, count_max: int, found: Iterator[object]) -> None:
    for number, _ in enumerate(found, 1):
        if number > count_max:
            raise _too_many(f"the {kind} picture", f"more than {count_max:,} {parts}")


def _too_many(owner: str, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(_FIELD, f"{owner} has {what}, which no decoder should be made to read; save it anew.")


def _check_jpeg(data: bytes) -> None:
    if data.count(b"Exif\0\0") > _JPEG_EXIF_BLOCKS_MAX:
        raise _too_many("the JPEG picture", f"more than {_JPEG_EXIF_BLOCKS_MAX} EXIF blocks")
    # Counting is quick and mostly enough; the bytes of a scan's marker may also stand in data behind the picture.
    may_have_many_scans = data.count(b"\xff\xda") > _JPEG_SCANS_MAX
    scans = 0
    for segments, marker in enumerate(_jpeg_markers(data), 1):
        scans += marker == _SOS
        if scans > _JPEG_SCANS_MAX:
            raise _too_many("the JPEG picture", f"more than {_JPEG_SCANS_MAX} scans")
        if segments > _JPEG_SEGMENTS_MAX:
            raise _too_many("the JPEG picture", f"more than {_JPEG_SEGMENTS_MAX:,} segments")
        if scans and not may_have_many_scans:
            return


def _jpeg_markers(data: bytes) -> Iterator[int]:
    position = 2
    in_scan = False
    while match := _JPEG_MARKER.search(data, position):
        if not in_scan and match.start() - position > _JPEG_JUNK_BYTES_MAX:
            raise _too_many("the JPEG picture", f"more than {_JPEG_JUNK_BYTES_MAX:,} bytes between two segments")
        marker = match[1][0]
        position = match.end()
        yield marker
        if marker == _EOI or marker in _JPEG_REFUSED:
            return
        if marker not in _JPEG_WITHOUT_LENGTH:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
        in_scan = marker == _SOS


def _png_chunks(data: bytes) -> Iterator[int]:
    position = 8
    while position + 8 <= len(data):
        yield position
        position += 12 + int.from_bytes(data[position : position + 4], "big")


def _gif_blocks(data: bytes) -> Iterator[int]:
    """Yield the place of every block, and of every byte that belongs to none, up to the first frame."""
    if len(data) <= 13:  # noqa: PLR2004 - the header and the size of the screen
        return
    flags = data[10]
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while position < len(data) and data[position] not in {_GIF_IMAGE, _GIF_END}:
        yield position
        if data[position] != _GIF_EXTENSION:
            position += 1
            continue
        position += 2
        while position < len(data) and data[position]:
            yield position
            position += 1 + data[position]
        position += 1


def _check_tiff(data: bytes, image_pixels_max: int) -> None:
    order = "<" if data.startswith(b"II") else ">"
    is_big = _BIG_TIFF in data[2:4]
    (first,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}L", data, 8 if is_big else 4)
    directories = [first]
    tile: dict[int, int] = {}
    for number, start in enumerate(directories):
        if number == _TIFF_DIRECTORIES_MAX:
            raise _too_many("the TIFF picture", f"more than {_TIFF_DIRECTORIES_MAX} directories")
        for tag, kind, count, value in _tiff_tags(data, order, start, is_big=is_big):
            if count > _TIFF_NUMBERS_MAX and kind not in _TIFF_BYTES_TYPES:
                raise _too_many("the TIFF picture", f"{count:,} numbers in tag {tag}")
            if tag in _TIFF_DIRECTORIES:
                directories.append(value)
            if tag in {_TILE_WIDTH, _TILE_LENGTH}:
                tile[tag] = value
    pixels = tile.get(_TILE_WIDTH, 0) * tile.get(_TILE_LENGTH, 0)
    if pixels > image_pixels_max:
        raise InvalidArgumentError(
            _FIELD, f"the TIFF picture has tiles of {pixels} pixels; the limit is {image_pixels_max}."
        )


def _tiff_tags(data: bytes, order: str, start: int, *, is_big: bool) -> Iterator[tuple[int, int, int, int]]:
    """Yield tag, type, count of values and first value (or where the values lie) of the entries of a directory."""
    if start >= len(data):
        return
    (entries,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}H", data, start)
    if entries > _TIFF_TAGS_MAX:
        raise _too_many("the TIFF picture", f"{entries:,} tags")
    start += 8 if is_big else 2
    for _ in range(entries):
        tag, kind, count = struct.unpack_from(f"{order}HHQ" if is_big else f"{order}HHL", data, start)
        start += 20 if is_big else 12
        short = kind == 3 and count == 1  # noqa: PLR2004 - SHORT; one value of it stands first in its place
        at = start - (8 if is_big else 4)
        (value,) = struct.unpack_from(order + ("H" if short else "Q" if is_big else "L"), data, at)
        yield tag, kind, count, value
