"""Texts of eight tokens and pictures of 224 pixels, the same for every server; knows nothing of servers."""

from collections.abc import Iterator
from random import Random
from typing import Final

from bench.serving.inputs import pictures

__all__ = ["TEXT_TOKENS", "pictures", "texts"]

TEXT_TOKENS = 8
"""The words of a text, one token each in CLIP's vocabulary, and the start and the end."""
_WORDS: Final = (
    "red blue green white black small big old young happy dog cat house tree car man girl bird horse sheep boat river"
    " garden street kitchen table window flower snow beach mountain bridge train coffee bread apple book hat shoe lamp"
)


def texts(seed: int) -> Iterator[str]:
    """Yield texts without end; that one comes twice is a matter of one in thousands of millions."""
    random = Random(seed)
    while True:
        yield " ".join(random.choices(_WORDS.split(), k=TEXT_TOKENS - 2))
