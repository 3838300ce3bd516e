"""The texts and pictures that users send; knows nothing of servers and of when they are sent."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

__all__ = ["Material", "MaterialError", "marked", "read_material", "typed"]

_PICTURES_MAX = 64
_POPULAR_TEXTS = 10
_POPULAR_SHARE = 0.3
_LETTERS_BETWEEN_PAUSES = 4
_PAUSES_MAX = 3
_PNG = b"\x89PNG\r\n\x1a\n"
#: Signature, length, name, 13 bytes of fields and checksum: where the header of a PNG file ends.
_PNG_HEADER_BYTES = 33
_JPEG = b"\xff\xd8"


class MaterialError(Exception):
    """There is nothing to send; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Material:
    """Texts and encoded pictures (PNG or JPEG), the same in every process."""

    texts: tuple[str, ...]
    pictures: tuple[bytes, ...]

    def text(self, random: Random) -> str:
        """Return any text; often one of few popular ones, which the server may have embedded before."""
        return random.choice(self.texts[:_POPULAR_TEXTS] if random.random() < _POPULAR_SHARE else self.texts)

    def picture(self, random: Random) -> bytes:
        """Return any picture."""
        return random.choice(self.pictures)

    def labels(self, random: Random, count: int) -> list[str]:
        """Return that many different texts, or all where there are fewer."""
        return random.sample(self.texts, min(count, len(self.texts)))


def typed(text: str) -> Iterator[str]:
    """Yield what stands in a search field at the pauses of somebody who types `text`, without the whole of it."""
    for letters in range(_LETTERS_BETWEEN_PAUSES, len(text), _LETTERS_BETWEEN_PAUSES)[:_PAUSES_MAX]:
        yield text[:letters].rstrip()


def marked(picture: bytes, mark: str) -> bytes:
    """Return the same picture in other bytes: with a comment, so that no server knows it already.

    Args:
        picture: a PNG or JPEG file.
        mark: the comment, ASCII.
    """
    if picture.startswith(_PNG):
        chunk = b"tEXtComment\0" + mark.encode("ascii")
        comment = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        return picture[:_PNG_HEADER_BYTES] + comment + picture[_PNG_HEADER_BYTES:]
    comment = mark.encode("ascii")
    return picture[:2] + b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment + picture[2:]


@cache
def read_material(pictures: str, texts: str) -> Material:
    """Read what is sent.

    Args:
        pictures: folder of PNG or JPEG files, of which the first by name are taken.
        texts: file of texts, one a line; empty means the sample pictures' names.

    Raises:
        MaterialError: there is no picture or fewer than two texts.
    """
    return Material(_read_texts(texts), _read_pictures(Path(pictures)))


def _read_texts(file: str) -> tuple[str, ...]:
    if not file:
        from demo.samples import read_table  # noqa: PLC0415 - needs the font package, which other texts do without

        return tuple(sample.name for sample in read_table())
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MaterialError(f"{file} cannot be read as UTF-8 text: {error}") from error
    texts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(texts) < 2:  # noqa: PLR2004 - labels must differ
        raise MaterialError(f"{file} holds fewer than two texts: one on each line is expected")
    return texts


def _read_pictures(folder: Path) -> tuple[bytes, ...]:
    found: list[bytes] = []
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in {".png", ".jpg", ".jpeg"} and len(found) < _PICTURES_MAX:
            data = path.read_bytes()
            if data.startswith((_PNG, _JPEG)):
                found.append(data)
    if not found:
        raise MaterialError(f"{folder} holds no PNG or JPEG file to send")
    return tuple(found)
