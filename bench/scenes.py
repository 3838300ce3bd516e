"""Draws pictures that are to decoders and towers what photographs are, at any size; knows nothing of files.

A scene is a sky or a wall (a gradient), clouds or texture of all scales whose strength falls with frequency as in
photographs (amplitude about 1/f; Field, "Relations between the statistics of natural images and the response properties
of cortical cells", 1987), objects with sharp edges and a texture of their own, and the noise of a sensor. The same
number and size give the same scene.
"""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

__all__ = ["draw_scene"]

_OBJECTS = 12
_SENSOR_NOISE = 3.0
"""Standard deviation, of 255 steps."""
_TEXTURE = 42.0
_COARSEST_CELLS = 4


def draw_scene(number: int, width: int, height: int) -> Image.Image:
    """Return scene `number`, RGB."""
    random = np.random.default_rng(number)
    ground = _gradient(random, width, height) + _texture(random, width, height, _TEXTURE)[..., None]
    picture = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    for _ in range(_OBJECTS):
        _add_object(picture, random)
    # One field of noise is enough for the three colours; it is shifted, so that they differ.
    noise = _SENSOR_NOISE * random.standard_normal((height, width), np.float32)
    pixels = np.asarray(picture).astype(np.float32)
    for channel in range(3):
        pixels[..., channel] += np.roll(noise, 37 * channel, axis=1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _gradient(random: np.random.Generator, width: int, height: int) -> npt.NDArray[np.float32]:
    """Return a colour that changes from corner to corner, (height, width, 3)."""
    corners = random.integers(20, 236, (2, 2, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)).astype(np.float32)


def _texture(random: np.random.Generator, width: int, height: int, strength: float) -> npt.NDArray[np.float32]:
    """Return grey texture whose amplitude halves from one octave to the next, (height, width)."""
    octaves = max(1, math.ceil(math.log2(max(width, height) / _COARSEST_CELLS)))
    total = np.zeros((1, 1), np.float32)
    for octave in reversed(range(octaves)):
        cells = (max(1, width >> octave), max(1, height >> octave))
        finer = Image.fromarray(total).resize(cells, Image.Resampling.BILINEAR)
        total = np.asarray(finer) + strength * random.standard_normal(cells[::-1], np.float32)
        strength /= 2
    return total


def _add_object(picture: Image.Image, random: np.random.Generator) -> None:
    """Put a shape with a texture of its own somewhere."""
    edge = min(picture.size)
    width, height = (int(edge * share) for share in random.uniform(0.08, 0.5, 2))
    left = int(random.integers(-width // 2, picture.width - width // 2))
    top = int(random.integers(-height // 2, picture.height - height // 2))
    body = _gradient(random, width, height) + _texture(random, width, height, 12.0)[..., None]
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    if random.random() < 0.5:  # noqa: PLR2004 - one shape as often as the other
        draw.ellipse((0, 0, width - 1, height - 1), fill=255)
    else:
        draw.polygon([(float(x * width), float(y * height)) for x, y in random.random((6, 2))], fill=255)
    picture.paste(Image.fromarray(np.clip(body, 0, 255).astype(np.uint8)), (left, top), mask)
