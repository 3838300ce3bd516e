"""Damages pictures and texts by degrees, to see what a model still makes of them; knows nothing of models.

The kinds are in the spirit of Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations, ICLR 2019 (arXiv:1903.12261); strengths are relative to the picture's size, not theirs, which are
made for 224 pixels. Every picture, also the undamaged one, is first reduced to `EDGE_MAX` pixels and encoded without
loss, so that strength alone makes the difference. The same picture or text at the same strength is always damaged
alike.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter, ImageOps

__all__ = ["EDGE_MAX", "PICTURE_DAMAGES", "TYPOS", "Damage", "damaged_picture", "with_typos"]

EDGE_MAX = 512
_PNG_COMPRESSION = 1
_JPEG = "JPEG"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Damage:
    """A kind of damage and the strengths it is tried at, weakest first, without the 0 that leaves all as it is."""

    name: str
    unit: str
    strengths: tuple[float, ...]
    apply: Callable[[Image.Image, float, np.random.Generator], Image.Image] | None = None


def _blur(picture: Image.Image, percent: float, _random: np.random.Generator) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(min(picture.size) * percent / 100))


def _noise(picture: Image.Image, percent: float, random: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture, np.float32)  # (height, width, 3)
    noise = random.standard_normal(pixels.shape, np.float32) * (255 * percent / 100)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).round().astype(np.uint8))


def _crop(picture: Image.Image, percent: float, _random: np.random.Generator) -> Image.Image:
    share = (1 - percent / 100) ** 0.5
    width, height = max(1, round(picture.width * share)), max(1, round(picture.height * share))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _rotation(picture: Image.Image, degrees: float, _random: np.random.Generator) -> Image.Image:
    """Turn the picture within its frame; the corners get the mean colour of its rim."""
    pixels = np.asarray(picture, np.float32)
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])  # (rim, 3)
    red, green, blue = (round(float(channel)) for channel in rim.mean(axis=0))
    return picture.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(red, green, blue))


def _nothing(picture: Image.Image, _strength: float, _random: np.random.Generator) -> Image.Image:
    return picture


PICTURE_DAMAGES = (
    Damage("blur", "σ, % of the shorter edge", (0.5, 1, 2, 4), _blur),
    Damage("noise", "σ, % of the full range", (5, 10, 20, 40), _noise),
    Damage(_JPEG, "100 - quality", (50, 80, 90, 95), _nothing),
    Damage("crop", "% of the area cut off", (10, 25, 50, 75), _crop),
    Damage("rotation", "degrees", (10, 20, 45, 90), _rotation),
)
TYPOS = Damage("typos", "slips in the text", (1, 2, 3, 4))


def damaged_picture(data: bytes, damage: Damage, strength: float, *, seed: int) -> bytes:
    """Return an encoded picture, damaged.

    Args:
        data: the encoded picture.
        damage: of `PICTURE_DAMAGES`.
        strength: in the damage's unit; 0 leaves the picture as it is but for its size.
        seed: of what is random in it.

    Raises:
        ValueError: Pillow cannot read the picture.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"Pillow cannot read it: {error}") from error
    picture.thumbnail((EDGE_MAX, EDGE_MAX), Image.Resampling.LANCZOS)
    if strength and damage.apply is not None:
        picture = damage.apply(picture, strength, np.random.default_rng([seed, round(strength * 100)]))
    stream = io.BytesIO()
    if strength and damage.name == _JPEG:
        picture.save(stream, "JPEG", quality=round(100 - strength))
    else:
        picture.save(stream, "PNG", compress_level=_PNG_COMPRESSION)
    return stream.getvalue()


def with_typos(text: str, count: int, *, seed: int) -> str:
    """Return a text with so many slips: neighbours swapped, a letter left out, doubled, or another one in its place."""
    random = np.random.default_rng([seed, count])
    for _ in range(count):
        letters = [at for at, character in enumerate(text) if character.isalpha()]
        if not letters:
            break
        at = int(random.choice(letters))
        match int(random.integers(4)):
            case 0 if at + 1 < len(text):
                text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
            case 1 if len(letters) > 1:
                text = text[:at] + text[at + 1 :]
            case 2:
                text = text[:at] + text[at] + text[at:]
            case _:
                text = text[:at] + _LETTERS[int(random.integers(len(_LETTERS)))] + text[at + 1 :]
    return text
