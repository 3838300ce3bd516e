"""Which number format a tower's weights are stored in and which one it computes in; knows nothing of graphs."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["FP16", "FP16_LIMIT", "FP16_STORED", "FP32", "Precision", "PrecisionName", "precision_of", "store"]

PrecisionName = Literal["fp16", "fp32"]

FP16_LIMIT = 30_000.0
"""Magnitudes beyond this stay out of FP16: its largest number is 65,504, and sums must not reach that."""


@dataclass(frozen=True)
class Precision:
    """The formats of one graph."""

    weights: type[np.float16 | np.float32]
    arithmetic: type[np.float16 | np.float32]


FP32 = Precision(weights=np.float32, arithmetic=np.float32)
FP16 = Precision(weights=np.float16, arithmetic=np.float16)
FP16_STORED = Precision(weights=np.float16, arithmetic=np.float32)
"""For towers whose activations leave FP16's range: half the size on disk, FP32 arithmetic."""


def precision_of(name: PrecisionName, activation_max: float) -> Precision:
    """Return the formats for the variant `name` of a tower whose activations reach `activation_max`."""
    if name == "fp32":
        return FP32
    return FP16 if activation_max <= FP16_LIMIT else FP16_STORED


def store(array: npt.NDArray[np.floating], precision: Precision) -> npt.NDArray[np.float16 | np.float32]:
    """Return `array` in the format its values allow: that of the precision's weights, or FP32 beyond `FP16_LIMIT`."""
    fits = precision.weights is np.float32 or np.abs(array).max(initial=0.0) <= FP16_LIMIT
    return np.ascontiguousarray(array, dtype=precision.weights if fits else np.float32)
