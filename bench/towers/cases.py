"""The kinds of work that the tower benchmark times; knows nothing of contenders or of time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.towers.loads import Load
from bench.towers.models import Model

__all__ = [
    "BATCHES",
    "BATCHES_CUDA",
    "Batches",
    "Case",
    "Ids",
    "Pixels",
    "cases_of",
    "normalise",
    "random_ids",
    "random_pixels",
]

Pixels = npt.NDArray[np.uint8]  # (batch, size, size, 3)
Ids = npt.NDArray[np.int64]  # (batch, length), the last token being the pooled one


@dataclass(frozen=True, slots=True)
class Batches:
    """How many inputs at once."""

    images: tuple[int, ...]
    texts: tuple[int, ...]


BATCHES = Batches(images=(1, 8, 32), texts=(1, 32))
BATCHES_CUDA = Batches(images=(1, 8, 32, 256), texts=(1, 32, 1024))
"""A GPU is not busy with fewer."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work: `tokens` is 0 for pictures."""

    batch: int
    tokens: int = 0

    @property
    def name(self) -> str:
        """For tables."""
        plural = "" if self.batch == 1 else "s"
        return f"{self.batch} text{plural} of {self.tokens} tokens" if self.tokens else f"{self.batch} picture{plural}"

    def load(self, model: Model) -> Load:
        """Return the load of the work itself, padding not counted."""
        one = model.text_load(self.tokens) if self.tokens else model.image_load()
        return one.times(self.batch)


def cases_of(model: Model, batches: Batches, only: str = "") -> Sequence[Case]:
    """Return the cases of `model` whose names contain `only`."""
    images = [Case(batch) for batch in batches.images]
    texts = [Case(batch, tokens) for batch in batches.texts for tokens in model.text_lengths]
    return [case for case in (*images, *texts) if only in case.name]


def random_pixels(model: Model, batch: int) -> Pixels:
    """Return pictures of noise, the same every time."""
    side = model.image_size
    return np.random.default_rng(batch).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)


def random_ids(model: Model, batch: int, tokens: int) -> Ids:
    """Return texts of `tokens` tokens, start and end tokens among them, the same every time."""
    random = np.random.default_rng(batch * 100 + tokens)
    ids: Ids = random.integers(model.words.start, model.words.stop, (batch, tokens))
    ids[:, : len(model.start_ids)] = model.start_ids
    ids[:, -1] = model.end_id
    return ids


def normalise(pixels: Pixels, model: Model) -> npt.NDArray[np.float32]:
    """Return pictures as a reference model takes them: (batch, 3, size, size)."""
    mean, std = np.array(model.mean, np.float32), np.array(model.std, np.float32)
    return np.ascontiguousarray(((pixels.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2))
