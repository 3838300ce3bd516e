"""Reads the layers that every layout names alike: normalizations, linear layers, scalars; knows nothing of towers."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_search_export.errors import CheckpointError
from clip_search_export.files.tensors import TensorReader
from clip_search_export.weights import LayerNorm, Linear

__all__ = ["read_linear", "read_logit_scale", "read_norm", "read_scalar", "read_transposed"]

_LOG_SCALE_MAX = 20.0
"""Beyond any real temperature: trainings clamp the scale at 100, whose logarithm is 4.6."""


def read_norm(tensors: TensorReader, prefix: str, width: int, epsilon: float) -> LayerNorm:
    """Read `PREFIX.weight` and `PREFIX.bias`."""
    return LayerNorm(
        gain=tensors.take(f"{prefix}.weight", (width,)),
        bias=tensors.take(f"{prefix}.bias", (width,)),
        epsilon=epsilon,
    )


def read_linear(tensors: TensorReader, prefix: str, inputs: int, outputs: int) -> Linear:
    """Read `PREFIX.weight`, stored (outputs, inputs), and `PREFIX.bias`."""
    return Linear(
        weight=read_transposed(tensors, f"{prefix}.weight", inputs, outputs),
        bias=tensors.take(f"{prefix}.bias", (outputs,)),
    )


def read_transposed(
    tensors: TensorReader, name: str, inputs: int, outputs: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Read a matrix that is stored (outputs, inputs) and applied from the right."""
    return tensors.take(name, (outputs, inputs)).T


def read_scalar(tensors: TensorReader, name: str) -> float:
    """Read one number, stored as such or as a list of one.

    Raises:
        CheckpointError: the tensor is missing or holds anything else.
    """
    shape = tensors.shape(name)
    value: npt.NDArray[np.float32] = tensors.take(name, shape if shape == (1,) else ())
    return float(value.reshape(-1)[0])


def read_logit_scale(tensors: TensorReader) -> float:
    """Read the factor of the cosine, which is stored as its logarithm.

    Raises:
        CheckpointError: the tensor is missing, no scalar, or no temperature of any training.
    """
    logarithm = read_scalar(tensors, "logit_scale")
    if abs(logarithm) > _LOG_SCALE_MAX:
        raise CheckpointError(f"the tensor logit_scale is {logarithm:g}: it must hold the logarithm of a scale.")
    return math.exp(logarithm)
