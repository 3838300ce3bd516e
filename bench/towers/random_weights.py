"""Writes safetensors files of random weights, whatever their size, in little memory; knows nothing of models.

The file is laid out as safetensors documents it: the length of the header in eight bytes, the header in JSON, then the
tensors one behind the other. It is written piece by piece because the library wants all tensors in memory at once.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

__all__ = ["Tensor", "count_parameters", "matrix", "norm", "vector", "write_weights"]

_PIECE_VALUES = 1 << 22
_VALUE_BYTES = 4
_VECTOR_SCALE, _MATRIX_GAIN = 0.05, 1.5
"""Larger than an initialization, so that different inputs get clearly different embeddings."""


class Tensor(NamedTuple):
    """A tensor to draw: values in FP32 around `centre`, normally distributed with the deviation `scale`."""

    name: str
    shape: tuple[int, ...]
    scale: float
    centre: float = 0.0


def matrix(name: str, *shape: int, gain: float = 1.0) -> Tensor:
    """Return weights whose last axes are summed over, of a deviation that about keeps the magnitude, times `gain`."""
    return Tensor(name, shape, gain * _MATRIX_GAIN / math.sqrt(math.prod(shape[1:])))


def vector(name: str, size: int, centre: float = 0.0) -> Tensor:
    """Return a bias or the like."""
    return Tensor(name, (size,), _VECTOR_SCALE, centre)


def norm(name: str, width: int) -> list[Tensor]:
    """Return the gain and the bias of a normalization."""
    return [vector(f"{name}.weight", width, 1.0), vector(f"{name}.bias", width)]


def count_parameters(tensors: Iterable[Tensor]) -> int:
    """Return the number of values in `tensors`."""
    return sum(math.prod(tensor.shape) for tensor in tensors)


def write_weights(path: Path, tensors: Sequence[Tensor]) -> None:
    """Write `tensors` to `path`, the same values every time; the file appears whole or not at all."""
    random = np.random.default_rng(7)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        header = _header(tensors)
        file.write(len(header).to_bytes(8, "little") + header)
        for tensor in tensors:
            _write_values(file, tensor, random)
    part.rename(path)


def _header(tensors: Sequence[Tensor]) -> bytes:
    entries: dict[str, object] = {}
    start = 0
    for tensor in tensors:
        end = start + math.prod(tensor.shape) * _VALUE_BYTES
        entries[tensor.name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": (start, end)}
        start = end
    header = json.dumps(entries).encode()
    return header + b" " * (-len(header) % 8)


def _write_values(file: BinaryIO, tensor: Tensor, random: np.random.Generator) -> None:
    left = math.prod(tensor.shape)
    while left:
        values = random.standard_normal(min(left, _PIECE_VALUES), dtype=np.float32)
        file.write((values * np.float32(tensor.scale) + np.float32(tensor.centre)).astype("<f4").tobytes())
        left -= len(values)
