"""The pictures and texts that 8-bit arithmetic is calibrated and judged on; knows nothing of towers.

Every second one is calibrated on; the others, which calibration never sees, are what the result is judged by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from clip_search_export.errors import CalibrationError
from clip_search_server.bundle import ImagePreprocessing
from clip_search_server.encoder.pixels import preprocess

__all__ = ["DEMO_PICTURES", "Samples", "read_samples"]

DEMO_PICTURES: Final = Path(__file__).resolve().parents[3] / ".demo" / "samples" / "pictures"
"""Where a source checkout draws its sample pictures."""

_PICTURES_MIN: Final = 32
_COUNT_MAX: Final = 256
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

_THINGS = (
    "a red bicycle", "two children", "an old lighthouse", "fresh bread", "a sleeping cat", "a crowd of people",
    "my grandmother's house", "a yellow taxi", "snowy mountains", "a bowl of soup", "an empty road", "a wedding cake",
    "a black and white dog", "sailing boats", "a man with an umbrella", "a cup of coffee", "wild horses", "a guitar",
    "the night sky", "a birthday party", "green apples", "a football match", "a wooden table", "a baby",
    "an airplane", "a garden full of flowers", "a bridge", "a laptop and a phone", "a bird", "an open book",
    "a waterfall", "a street market", "three friends", "a broken window", "a train", "a chess board",
    "a pizza with mushrooms", "a castle", "a surfer", "rain", "a painting of a woman", "an elephant",
)  # fmt: skip
_SETTINGS = (
    "{}", "a photo of {}", "{} on the beach at sunset", "a close-up of {}", "{} in the snow", "a drawing of {}",
    "{} seen from above", "a blurry picture of {} at night", "{} next to a parked car", "where is {}?",
    "{}, vintage style, 1970s", "a small icon of {}", "{} without any people", "happy faces around {}",
    "my favourite photo of {} from our holiday in Italy, taken early in the morning", "{} and a clock",
)  # fmt: skip

_Element = TypeVar("_Element")


@dataclass(frozen=True)
class Samples:
    """What there is to calibrate on, and apart from it what there is to judge by."""

    pixels: npt.NDArray[np.uint8]  # (pictures, size, size, 3)
    held_out_pixels: npt.NDArray[np.uint8]  # likewise
    texts: list[str]
    held_out_texts: list[str]


def read_samples(folder: Path | None, preprocessing: ImagePreprocessing) -> Samples:
    """Return samples of the pictures and the text files (`*.txt`, a text a line) anywhere in `folder`.

    Without a folder the sample pictures of a source checkout are taken; built-in texts fill up what is missing.

    Raises:
        CalibrationError: there are too few pictures.
    """
    pictures = _read_pictures(DEMO_PICTURES if folder is None else folder, preprocessing)
    if len(pictures) < _PICTURES_MIN:
        what = f"{folder} has {len(pictures)} readable pictures" if folder else "no sample pictures are drawn here"
        raise CalibrationError(
            f"{what}, and 8-bit arithmetic is calibrated on {_PICTURES_MIN} at least: give a folder of pictures like "
            f"those to be searched, {_COUNT_MAX} or more, with --calibrate FOLDER."
        )
    texts = [*_read_texts(folder), *_made_texts()][:_COUNT_MAX]
    return Samples(np.stack(pictures[::2]), np.stack(pictures[1::2]), texts[::2], texts[1::2])


def _read_pictures(folder: Path, preprocessing: ImagePreprocessing) -> list[npt.NDArray[np.uint8]]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    pictures = []
    for path in _spread(paths):
        try:
            with Image.open(path) as picture:
                pictures.append(preprocess(picture.convert("RGB"), preprocessing))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            continue  # Some unreadable pictures among many do not matter; too few readable ones are reported.
    return pictures


def _read_texts(folder: Path | None) -> list[str]:
    files = sorted(folder.rglob("*.txt")) if folder else []
    lines = [line.strip() for file in files for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    return _spread([line for line in dict.fromkeys(lines) if line])


def _made_texts() -> list[str]:
    return [_SETTINGS[number % len(_SETTINGS)].format(thing) for number, thing in enumerate(_THINGS * 7)]


def _spread(everything: Sequence[_Element]) -> list[_Element]:
    """Return at most `_COUNT_MAX`, evenly spread over all."""
    step = max(1.0, len(everything) / _COUNT_MAX)
    return [everything[int(at * step)] for at in range(min(len(everything), _COUNT_MAX))]
