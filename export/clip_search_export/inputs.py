"""Pictures and texts to compare towers on, made by procedure: the same on every machine, no file needed.

They are as different from each other as such things can be, because a comparison on inputs that the reference cannot
tell apart would measure nothing. Knows nothing of towers; pictures and texts go through the server's own preprocessing.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from clip_search_server.bundle import ImagePreprocessing
from clip_search_server.encoder.pixels import preprocess
from clip_search_server.encoder.tokens import Tokenizer

__all__ = ["TextInputs", "make_image_inputs", "make_pictures", "make_text_inputs", "make_texts"]

_SIZES = ((320, 240), (200, 331), (97, 61), (640, 427), (224, 224), (150, 613))
"""Widths and heights: landscape, portrait, tiny, square, a long strip; most differ from every tower's size."""

_SENTENCE = (
    "a red bicycle leans on the old harbour wall while seven gulls argue about one chip under grey winter clouds "
    "and somebody far away plays accordion badly but with love near the lighthouse where fishermen mend blue nets"
)
_WORDS = _SENTENCE.split()
_WORD_COUNTS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 200)
_ODD_TEXTS = ("", "42!", "Ünïcödé  and\ttabs", "\N{SLICE OF PIZZA} \N{ROCKET}", "don't STOP", "日本の猫")


def make_pictures() -> list[Image.Image]:
    """Return RGB pictures of different patterns, colours and, mostly, non-square sizes."""
    patterns = (_gradient, _checkers, _discs, _clouds, _stripes, _noise)
    return [
        Image.fromarray(pattern(*_SIZES[(index + turn) % len(_SIZES)], np.random.RandomState(10 * index + turn)))
        for turn in range(2)
        for index, pattern in enumerate(patterns)
    ]


def make_texts() -> list[str]:
    """Return texts from no word at all to more than any context holds."""
    sentences = [" ".join(_WORDS[(3 * at + word) % len(_WORDS)] for word in range(at)) for at in _WORD_COUNTS]
    return [*_ODD_TEXTS, *sentences]


def make_image_inputs(preprocessing: ImagePreprocessing) -> npt.NDArray[np.uint8]:
    """Return the pictures as the image tower reads them: (pictures, size, size, 3)."""
    return np.stack([preprocess(picture, preprocessing) for picture in make_pictures()])


class TextInputs(NamedTuple):
    """Tokenized texts, padded and trimmed."""

    ids: npt.NDArray[np.int64]  # (texts, context), padded
    lengths: npt.NDArray[np.int64]  # (texts,), tokens of each text
    ends: npt.NDArray[np.int64]  # (texts,), position of the pooled token


def make_text_inputs(tokenizer: Tokenizer, context_length: int, pad_token_id: int) -> TextInputs:
    """Return the texts as the text tower reads them, each distinct after truncation."""
    tokens = {tuple(encoded.ids.tolist()): encoded for encoded in map(tokenizer.encode, make_texts())}
    ids = np.full((len(tokens), context_length), pad_token_id, dtype=np.int64)
    for row, encoded in zip(ids, tokens.values(), strict=True):
        row[: len(encoded.ids)] = encoded.ids
    lengths = np.array([len(encoded.ids) for encoded in tokens.values()])
    return TextInputs(ids, lengths, np.array([encoded.end for encoded in tokens.values()]))


_Picture = npt.NDArray[np.uint8]  # (height, width, 3)


def _gradient(width: int, height: int, random: np.random.RandomState) -> _Picture:
    corners = random.randint(0, 256, size=(2, 2, 3)).astype(np.float64)
    down, right = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    top = corners[0, 0] * (1 - right) + corners[0, 1] * right
    bottom = corners[1, 0] * (1 - right) + corners[1, 1] * right
    picture: npt.NDArray[np.float64] = top * (1 - down) + bottom * down
    return picture.astype(np.uint8)


def _checkers(width: int, height: int, random: np.random.RandomState) -> _Picture:
    colours = random.randint(0, 256, size=(2, 3)).astype(np.uint8)
    cell = random.randint(5, 30)
    picture: _Picture = colours[(np.arange(height)[:, None] // cell + np.arange(width) // cell) % 2]
    return picture


def _discs(width: int, height: int, random: np.random.RandomState) -> _Picture:
    picture = np.full((height, width, 3), random.randint(200, 256), dtype=np.uint8)
    for _ in range(5):
        x, y, radius = random.randint(width), random.randint(height), random.randint(8, max(9, min(width, height) // 2))
        inside = (np.arange(height)[:, None] - y) ** 2 + (np.arange(width) - x) ** 2 < radius**2
        picture[inside] = random.randint(0, 256, size=3)
    return picture


def _clouds(width: int, height: int, random: np.random.RandomState) -> _Picture:
    coarse = Image.fromarray(random.randint(0, 256, size=(5, 7, 3)).astype(np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _stripes(width: int, height: int, random: np.random.RandomState) -> _Picture:
    colours = random.randint(0, 256, size=(3, 3)).astype(np.uint8)
    slope, period = random.uniform(-1, 1), random.randint(6, 40)
    return colours[((np.arange(height)[:, None] * slope + np.arange(width)) // period).astype(np.int64) % 3]


def _noise(width: int, height: int, random: np.random.RandomState) -> _Picture:
    tint = random.randint(60, 256, size=3)
    return (random.randint(0, 256, size=(height, width, 1)) * tint // 255).astype(np.uint8)
