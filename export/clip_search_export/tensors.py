"""Reads tensors by name from safetensors files, single or sharded; knows nothing of what they are for.

Every tensor is checked for presence, shape and finite values as it is taken, and comes out as float32.
"""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes  # noqa: F401 - teaches NumPy the type bfloat16, which safetensors asks it for.
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from clip_search_export.errors import CheckpointError

__all__ = ["TensorReader", "read_json"]


class TensorReader:
    """The tensors of one checkpoint, wherever among its files they are."""

    def __init__(self, file_of: dict[str, Path]) -> None:
        self._file_of = file_of
        self._open_files: dict[Path, Any] = {}

    @classmethod
    def open(cls, folder: Path, names: Sequence[str]) -> "TensorReader":
        """Open the first of `names` that `folder` has, as one file or as shards under `NAME.index.json`.

        Raises:
            CheckpointError: none is there, or a file is truncated or malformed.
        """
        for name in names:
            if (folder / name).is_file():
                return cls(dict.fromkeys(_tensor_names(folder / name), folder / name))
            if (folder / f"{name}.index.json").is_file():
                return cls(_read_shard_index(folder, f"{name}.index.json"))
        raise CheckpointError(f"{folder} has no weights: none of {', '.join(names)} (or its .index.json) is there.")

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def take(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return the tensor `name` as float32.

        Raises:
            CheckpointError: the tensor is missing, has another shape, is not of floating point, or has values that
                are not finite.
        """
        found = self.shape(name)
        if found != shape:
            raise CheckpointError(
                f"the tensor {name} has shape {list(found)}; its configuration asks for {list(shape)}."
            )
        tensor = self._file(name).get_tensor(name)
        if tensor.dtype.kind not in "fV":  # bfloat16 is of kind V
            raise CheckpointError(f"the tensor {name} is of type {tensor.dtype}; floating point was expected.")
        array = np.asarray(tensor, dtype=np.float32, order="C")
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
        return tuple(self._file(name).get_slice(name).get_shape())

    def _file(self, name: str) -> Any:  # noqa: ANN401 - safetensors has no public type for an open file.
        path = self._file_of[name]
        if path not in self._open_files:
            self._open_files[path] = _open(path)
        return self._open_files[path]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of a checkpoint.

    Raises:
        CheckpointError: the file is missing or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} has no {path.name}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object.")
    return value


def _open(path: Path) -> Any:  # noqa: ANN401 - as above.
    try:
        return safe_open(path, framework="np")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is no sound safetensors file ({error}): download or copy it again.") from error


def _tensor_names(path: Path) -> list[str]:
    return list(_open(path).keys())


def _read_shard_index(folder: Path, name: str) -> dict[str, Path]:
    weight_map = read_json(folder / name).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{folder / name} has no weight_map.")
    shards = {}
    for tensor, shard in weight_map.items():
        # A shard is a file beside its index; anything with a folder in it is an attempt to read elsewhere.
        if not isinstance(shard, str) or PurePosixPath(shard).name != shard or not (folder / shard).is_file():
            raise CheckpointError(f"{folder / name} names the file {shard!r}, which is not in the folder.")
        shards[tensor] = folder / shard
    available = {path: set(_tensor_names(path)) for path in set(shards.values())}
    for tensor, path in shards.items():
        if tensor not in available[path]:
            raise CheckpointError(f"{path} has no tensor {tensor}, although {name} says so.")
    return shards
