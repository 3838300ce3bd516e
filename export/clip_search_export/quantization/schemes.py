"""How one product or convolution is quantized to 8 bits, as formulas; knows nothing of graphs and towers.

An activation x becomes q = round(x / scale) + zero_point, clamped to 0..255; a weight w becomes round(w / scale),
clamped to -127..127, with a scale for each output. A product of both is exact in 32-bit integers and is scaled back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "FLOAT",
    "MIDDLE",
    "PER_TOKEN_LEVELS",
    "Convolved",
    "PerToken",
    "Plan",
    "Scheme",
    "Static",
    "quantize_weight",
    "simulate",
    "static_range",
]

_LEVELS: Final = 255
MIDDLE: Final = 128
"""The zero point of a range around 0."""
PER_TOKEN_LEVELS: Final = 127
_WEIGHT_LEVELS = 127


@dataclass(frozen=True)
class Static:
    """One scale and zero point for every input, known beforehand."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class PerToken:
    """Each token is scaled by its own largest magnitude: more passes over it, and no range to fall out of."""


@dataclass(frozen=True)
class Convolved:
    """A convolution whose input and output both have a known range."""

    input: Static
    output: Static


Scheme: TypeAlias = Static | PerToken | Convolved
Plan: TypeAlias = Mapping[str, Scheme]
"""Scheme by the name of a product in its graph; what is not named computes in floating point."""

FLOAT: Final[Plan] = {}


def static_range(low: float, high: float) -> Static:
    """Return the finest scale that reaches from `low` to `high` and holds 0 exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / _LEVELS or 1.0
    return Static(scale, round(-low / scale))


def quantize_weight(
    weight: npt.NDArray[np.floating], *, axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return a weight as int8 and the scale (outputs,) of each output, which lie along `axis`."""
    others = tuple(other for other in range(weight.ndim) if other != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scales = np.where(largest > 0, largest / _WEIGHT_LEVELS, 1.0).astype(np.float32)
    return np.round(weight / scales).astype(np.int8), scales.reshape(-1)


def simulate(x: npt.NDArray[np.floating], scheme: Static | PerToken) -> npt.NDArray[np.floating]:
    """Return what is left of activations (rows, width) after quantization, scaled back."""
    if isinstance(scheme, Static):
        steps = np.clip(np.round(x / scheme.scale) + scheme.zero_point, 0, _LEVELS)
        fixed: npt.NDArray[np.floating] = (steps - scheme.zero_point) * scheme.scale
        return fixed
    scales = np.abs(x).max(axis=-1, keepdims=True) / PER_TOKEN_LEVELS
    scales = np.where(scales > 0, scales, 1.0)
    rounded: npt.NDArray[np.floating] = np.round(x / scales) * scales
    return rounded
