"""Tensors as views of a mapped file; knows nothing of the formats that say where in the file they are.

Nothing is read until an array is used, and then by the page: weights that are FP32 already cost no memory of their own,
and those that are not taken cost none at all.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clip_search_export.errors import CheckpointError

__all__ = ["LFS_START", "MappedTensors", "StoredTensor"]

LFS_START = b"version https"
"""How a pointer of Git LFS begins, which a clone without Git LFS has in place of a large file."""


class StoredTensor(NamedTuple):
    """Where a tensor is in its file, in bytes, and how to read it."""

    type_name: str
    """The element type as the file's format calls it."""
    dtype: np.dtype[Any] | None
    """None for a type that weights are never read from."""
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    """None for C order."""
    offset: int


class MappedTensors:
    """The tensors of one file, every one of which lies inside it."""

    def __init__(self, path: Path, tensors: Mapping[str, StoredTensor]) -> None:
        """Map `path`.

        Raises:
            CheckpointError: the file cannot be mapped.
        """
        self._path = path
        self._tensors = tensors
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}.") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> StoredTensor:
        return self._tensors[name]

    def view(self, name: str) -> npt.NDArray[Any]:
        """Return the tensor `name` as it is stored, read-only.

        Raises:
            CheckpointError: its elements are not of floating point, or of a kind that is not read.
        """
        tensor = self._tensors[name]
        if tensor.dtype is None:
            raise CheckpointError(
                f"the tensor {name} is of type {tensor.type_name}; floating point of 16, 32 or 64 bits was expected."
            )
        return np.ndarray(tensor.shape, tensor.dtype, self._map, tensor.offset, tensor.strides)

    def release(self) -> None:
        """Give back the memory of what was read; views stay good, and are read again when they are used."""
        self._map.madvise(mmap.MADV_DONTNEED)
