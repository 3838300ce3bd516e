"""Changes valid inputs at random, the same way for the same number; knows nothing of what the inputs are.

Why no library: what matters here is a hundred thousand inputs in minutes, each repeatable from its number. Hypothesis
takes milliseconds for an example and finds little in bytes that must look like a file; Atheris follows the coverage of
code it has instrumented, and the decoders, parsers and tokenizers that are to be hurt come compiled, without that.
"""

import random
import struct
import zlib
from collections.abc import Callable, Sequence

_CHANGES_MAX = 6
_INTEGERS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 127, 128, 255, 256, 32_767, 32_768, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
_FORMATS = ("B", "<H", ">H", "<I", ">I")
_INSERTED_BYTES_MAX = 64

Change = Callable[[bytearray, random.Random, Sequence[bytes]], None]


def mutate(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """Return one of `seeds` with a few changes; parts of others may be in it."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, _CHANGES_MAX)):
        if not data:
            break
        chance.choice(_CHANGES)(data, chance, seeds)
    return bytes(data)


def _flip_bit(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _write_integer(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    kind = chance.choice(_FORMATS)
    size = struct.calcsize(kind)
    place = chance.randrange(len(data))
    data[place : place + size] = struct.pack(kind, chance.choice(_INTEGERS) % (1 << 8 * size))


def _write_near_the_start(data: bytearray, chance: random.Random, seeds: Sequence[bytes]) -> None:
    """Headers are what is most believed."""
    head = data[:64]
    _write_integer(head, chance, seeds)
    data[:64] = head


def _delete(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.choice((1, 2, 4, 16, 256))]


def _repeat(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    start = chance.randrange(len(data))
    part = data[start : start + chance.choice((1, 4, 16, 64, 512))]
    data[start:start] = part * chance.choice((1, 2, 8))


def _insert(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    start = chance.randrange(len(data) + 1)
    data[start:start] = chance.randbytes(chance.randint(1, _INSERTED_BYTES_MAX))


def _truncate(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    del data[chance.randrange(len(data)) :]


def _clear(data: bytearray, chance: random.Random, _seeds: Sequence[bytes]) -> None:
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.choice((2, 8, 64)))
    data[start:end] = bytes([chance.choice((0, 255))]) * (end - start)


def _splice(data: bytearray, chance: random.Random, seeds: Sequence[bytes]) -> None:
    other = chance.choice(seeds)
    start = chance.randrange(len(other) + 1)
    place = chance.randrange(len(data))
    data[place:] = other[start:]


_CHANGES: Sequence[Change] = (
    _flip_bit,
    _flip_bit,
    _write_integer,
    _write_integer,
    _write_near_the_start,
    _delete,
    _repeat,
    _insert,
    _truncate,
    _clear,
    _splice,
)


def with_right_checksums(data: bytes) -> bytes:
    """Return a PNG whose chunks have the checksums that its decoder asks for; anything else as it is.

    Without that, next to nothing of what was changed in a PNG would ever be read.
    """
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    mended = bytearray(data)
    place = 8
    while place + 12 <= len(mended):
        end = place + 8 + int.from_bytes(mended[place : place + 4], "big")
        if end + 4 > len(mended):
            break
        mended[end : end + 4] = struct.pack(">I", zlib.crc32(mended[place + 4 : end]))
        place = end + 4
    return bytes(mended)
