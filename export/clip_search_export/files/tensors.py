"""Reads tensors by name from the weight files of a checkpoint, single or sharded; knows nothing of what they are for.

Every tensor is checked for presence, shape and finite values as it is taken, and comes out as float32.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clip_search_export.errors import CheckpointError
from clip_search_export.files.mapped_tensors import MappedTensors
from clip_search_export.files.safetensors_files import open_safetensors
from clip_search_export.files.torch_files import TORCH_SUFFIXES, open_torch_file
from clip_search_export.files.weight_files import INDEX_SUFFIX, read_shard_index

__all__ = ["TensorReader"]


class TensorReader:
    """The tensors of one checkpoint, wherever among its files they are."""

    def __init__(self, file_of: Mapping[str, MappedTensors]) -> None:
        self._file_of = file_of

    @classmethod
    def open(cls, folder: Path, names: Sequence[str]) -> "TensorReader":
        """Open the first of `names` that `folder` has, as one file or as shards under `NAME.index.json`.

        Raises:
            CheckpointError: none is there, or a file is truncated or malformed.
        """
        for name in names:
            if (folder / name).is_file():
                tensors = _open(folder / name)
                return cls(dict.fromkeys(tensors, tensors))
            if (folder / f"{name}{INDEX_SUFFIX}").is_file():
                return cls(_open_shards(folder / f"{name}{INDEX_SUFFIX}"))
        raise CheckpointError(f"{folder} has no weights: none of {', '.join(names)} (or its .index.json) is there.")

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def take(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return the tensor `name` as float32; read-only where it is a view of the file.

        Raises:
            CheckpointError: the tensor is missing, has another shape, is not of floating point, or has values that
                are not finite.
        """
        found = self.shape(name)
        if found != shape:
            raise CheckpointError(
                f"the tensor {name} has shape {list(found)}; its configuration asks for {list(shape)}."
            )
        # A number beyond FP32's range becomes infinite, and is told below.
        with np.errstate(over="ignore"):
            stored = self._file_of[name].view(name)
            array = np.asarray(stored, dtype=np.float32, order="C")
        if not np.may_share_memory(array, stored):
            self._file_of[name].release()  # A copy: what it was made from is not needed again.
        if not np.isfinite(array).all():
            raise CheckpointError(f"the tensor {name} has values that are not finite: the checkpoint is damaged.")
        return array

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the tensor `name` without reading it.

        Raises:
            CheckpointError: the tensor is missing.
        """
        if name not in self._file_of:
            raise CheckpointError(f"the checkpoint has no tensor {name}: it is incomplete, or of another architecture.")
        return self._file_of[name][name].shape


def _open(path: Path) -> MappedTensors:
    return open_torch_file(path) if path.suffix in TORCH_SUFFIXES else open_safetensors(path)


def _open_shards(index: Path) -> dict[str, MappedTensors]:
    shard_of = read_shard_index(index)
    files: dict[str, MappedTensors] = {}
    for shard in sorted(set(shard_of.values())):
        path = index.with_name(shard)
        if not path.is_file():
            raise CheckpointError(f"{index} names the file {shard!r}, which is not in the folder.")
        files[shard] = _open(path)
    for tensor, shard in shard_of.items():
        if tensor not in files[shard]:
            raise CheckpointError(f"{index.with_name(shard)} has no tensor {tensor}, although {index.name} says so.")
    return {tensor: files[shard] for tensor, shard in shard_of.items()}
