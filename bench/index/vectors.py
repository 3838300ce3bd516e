"""Vectors that look like a CLIP model's to a nearest-neighbour graph, in any number and length, the same every time.

What makes such vectors hard for a graph is measured on a real model, here the demo's (`bench/index/fit_vectors.py`, its
figures in vectors.json), and reproduced:

    modality gap    pictures and texts lie around two means far apart: texts are not drawn from what the graph holds
    spectrum        few directions carry most of what tells pictures apart
    clusters        pictures of one concept lie together; fitted so that the nearest neighbour is as near as in truth
    pairing         a text lies on the side of its concept's pictures, by the measured cosine

All of it is expressed along the principal axes of the pictures; a longer vector stretches each axis over several, which
makes the space proportionally richer. Knows nothing of models, engines or what is measured with the vectors.
"""

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["FITTED", "Parameters", "Space", "fit", "nearest_cosine"]

FITTED = Path(__file__).with_name("vectors.json")
#: Pictures of one concept, on average.
PICTURES_PER_CONCEPT = 16
# Deviation of the logarithm of how far a picture lies from its concept: few are typical, some are odd. With 0.4 a poor
# graph misses as much among generated pictures as among the demo's; with none it misses half of that.
_ODDITY = 0.4
_BLOCK = 16_384
_DIGITS = 5

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Parameters:
    """What was measured; each array has one number an axis, in order of falling variance of the pictures.

    Attributes:
        picture_mean, text_mean: the mean of the unit vectors.
        picture_variances, text_variances: variances around it.
        pair_cosine, pair_deviation: mean and standard deviation of the cosine of a text and its picture, each with its
            mean subtracted.
        within_share: share of the pictures' variance that lies within concepts.
        source: where the figures come from.
    """

    picture_mean: tuple[float, ...]
    text_mean: tuple[float, ...]
    picture_variances: tuple[float, ...]
    text_variances: tuple[float, ...]
    pair_cosine: float
    pair_deviation: float
    within_share: float
    source: str

    @classmethod
    def load(cls, path: Path = FITTED) -> Self:
        """Read what `save` wrote."""
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        return cls(**values)

    def save(self, path: Path = FITTED) -> None:
        """Write a JSON object, one field a line."""
        fields = (f" {json.dumps(name)}: {json.dumps(value)}" for name, value in asdict(self).items())
        path.write_text("{\n" + ",\n".join(fields) + "\n}\n", encoding="utf-8")


class Space:
    """Pictures and texts of one imagined model and collection.

    Args:
        parameters: what to look like.
        dim: components of a vector.
        concepts: different things that pictures show.
        seed: decides everything.
    """

    def __init__(self, parameters: Parameters, *, dim: int, concepts: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._parameters = parameters
        self._picture_mean = _stretched(parameters.picture_mean, dim)
        self._text_mean = _stretched(parameters.text_mean, dim)
        self._picture_deviations = np.sqrt(_stretched(parameters.picture_variances, dim, squared=True))
        self._text_deviations = np.sqrt(_stretched(parameters.text_variances, dim, squared=True))
        self._concepts = self._noise(concepts, self._picture_deviations)  # (concepts, dim)

    def another(self, seed: int) -> "Space":
        """Return the same space with other pictures and texts to come."""
        other = copy.copy(self)
        other._random = np.random.default_rng(seed)  # noqa: SLF001 - its own class
        return other

    def pictures(self, count: int) -> FloatArray:
        """Return `count` more pictures, float32 (count, dim) of unit length."""
        pictures = np.empty((count, len(self._picture_mean)), dtype=np.float32)
        for start in range(0, count, _BLOCK):
            block = pictures[start : start + _BLOCK]
            block[:] = _unit(self._picture_mean + self._picture_offsets(len(block)))
        return pictures

    def texts(self, count: int) -> FloatArray:
        """Return `count` more texts, each about one of the concepts, float32 (count, dim) of unit length."""
        mean, deviation = self._parameters.pair_cosine, self._parameters.pair_deviation
        shown = np.clip(mean + deviation * self._random.standard_normal((count, 1)), 0.0, 0.95)  # (count, 1)
        length = np.linalg.norm(self._text_deviations)
        towards = _unit(self._picture_offsets(count))
        apart = _unit(self._noise(count, self._text_deviations))
        return _unit(self._text_mean + length * (shown * towards + np.sqrt(1 - shown**2) * apart))

    def _picture_offsets(self, count: int) -> FloatArray:
        within = self._parameters.within_share
        chosen = self._random.integers(len(self._concepts), size=count)
        oddity = np.exp(_ODDITY * self._random.standard_normal((count, 1), dtype=np.float32) - _ODDITY**2)
        own = oddity * self._noise(count, self._picture_deviations)
        offsets: FloatArray = (
            np.float32(np.sqrt(1 - within)) * self._concepts[chosen] + np.float32(np.sqrt(within)) * own
        )
        return offsets

    def _noise(self, count: int, deviations: FloatArray) -> FloatArray:
        return self._random.standard_normal((count, len(deviations)), dtype=np.float32) * deviations


def fit(pictures: FloatArray, texts: FloatArray, source: str) -> Parameters:
    """Return the parameters of a model's embeddings; row n of `texts` describes row n of `pictures`.

    Args:
        pictures: (pairs, dim) of unit length.
        texts: (pairs, dim) of unit length.
        source: what to note as their origin.
    """
    picture_mean, text_mean = pictures.mean(axis=0), texts.mean(axis=0)
    picture_offsets, text_offsets = pictures - picture_mean, texts - text_mean
    variances, axes = np.linalg.eigh(np.cov(picture_offsets.T))
    axes = axes[:, ::-1]
    pairs = (_unit(picture_offsets) * _unit(text_offsets)).sum(axis=1)  # (pairs,)
    parameters = Parameters(
        picture_mean=_rounded(picture_mean @ axes),
        text_mean=_rounded(text_mean @ axes),
        picture_variances=_rounded(np.maximum(variances[::-1], 1e-9)),
        text_variances=_rounded((text_offsets @ axes).var(axis=0)),
        pair_cosine=round(float(pairs.mean()), _DIGITS),
        pair_deviation=round(float(pairs.std()), _DIGITS),
        within_share=0.5,
        source=source,
    )
    return _with_fitted_clusters(parameters, nearest_cosine(pictures), count=len(pictures), dim=pictures.shape[1])


def nearest_cosine(pictures: FloatArray) -> float:
    """Return the mean cosine of a picture and the one nearest to it."""
    cosines = pictures @ pictures.T
    np.fill_diagonal(cosines, -1.0)
    return float(cosines.max(axis=1).mean())


def _with_fitted_clusters(parameters: Parameters, wanted: float, *, count: int, dim: int) -> Parameters:
    """Halve the range of `within_share` until nearest neighbours are as near as wanted."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        tried = Parameters(**{**asdict(parameters), "within_share": round(middle, _DIGITS)})
        space = Space(tried, dim=dim, concepts=max(1, count // PICTURES_PER_CONCEPT), seed=0)
        low, high = (middle, high) if nearest_cosine(space.pictures(count)) > wanted else (low, middle)
    return tried


def _stretched(values: tuple[float, ...], dim: int, *, squared: bool = False) -> FloatArray:
    """Return one number for each of `dim` axes with the same sum of squares, or the same sum where already squared."""
    source = np.array(values)
    spread = source[np.arange(dim) * len(source) // dim]
    scale = len(source) / dim if squared else np.sqrt(len(source) / dim)
    stretched: FloatArray = (spread * scale).astype(np.float32)
    return stretched


def _unit(vectors: npt.NDArray[np.floating]) -> FloatArray:
    units: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return units


def _rounded(values: npt.NDArray[np.floating]) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)
