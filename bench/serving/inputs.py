"""Pictures and texts to send, none of them twice where that would matter; knows nothing of servers."""

import io
import string
from collections.abc import Iterator
from random import Random

import numpy as np
from PIL import Image

__all__ = ["TEXT_LETTERS", "marked", "pictures", "texts"]

TEXT_LETTERS = 10
"""Letters of a text; one token each in the random models, and two more for its start and end."""
_PICTURES = 32


def texts(seed: int) -> Iterator[str]:
    """Yield words of random letters without end."""
    random = Random(seed)
    while True:
        yield "".join(random.choices(string.ascii_lowercase, k=TEXT_LETTERS))


def pictures(seed: int, side: int = 224, count: int = _PICTURES) -> list[bytes]:
    """Return JPEG files of `side` pixels, blurred noise, about as large as photos of that size."""
    random = np.random.default_rng(seed)
    files = []
    for _ in range(count):
        coarse = random.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def marked(picture: bytes, number: int) -> bytes:
    """Return a JPEG file with a comment: the same picture in other bytes, which no server can know already."""
    comment = number.to_bytes(8, "big")
    return picture[:2] + b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment + picture[2:]
