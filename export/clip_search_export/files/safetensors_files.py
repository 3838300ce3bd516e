"""Reads the header of a safetensors file; knows nothing of what the tensors are for.

    8 bytes     length of the header, little-endian
    header      JSON: name -> {dtype, shape, data_offsets: [start, end] from the end of the header}, __metadata__
    data        the tensors, in C order, without gaps

The library checks the header (bounds, overlaps, gaps, sizes) before anything here relies on it.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from clip_search_export.errors import CheckpointError
from clip_search_export.files.json_files import reject_duplicates
from clip_search_export.files.mapped_tensors import LFS_START, MappedTensors, StoredTensor

__all__ = ["open_safetensors"]

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
_METADATA_KEY = "__metadata__"
_LENGTH_BYTES = 8


def open_safetensors(path: Path) -> MappedTensors:
    """Open the file at `path`.

    Raises:
        CheckpointError: the file is missing, truncated or malformed.
    """
    try:
        with safe_open(path, framework="np"):
            header = _read_header(path)
    except (OSError, SafetensorError, ValueError) as error:
        if _starts_as_pointer(path):
            raise CheckpointError(f"{path} is a pointer of Git LFS: run `git lfs pull` in its folder.") from error
        raise CheckpointError(f"{path} is no sound safetensors file ({error}): download or copy it again.") from error
    return MappedTensors(path, header)


def _starts_as_pointer(path: Path) -> bool:
    """Tell whether the file only says where its content is, as in a clone without Git LFS."""
    try:
        with path.open("rb") as file:
            return file.read(len(LFS_START)) == LFS_START
    except OSError:
        return False


def _read_header(path: Path) -> dict[str, StoredTensor]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(_LENGTH_BYTES))
        entries = json.loads(file.read(length), object_pairs_hook=reject_duplicates)
    start = _LENGTH_BYTES + length
    return {
        name: StoredTensor(
            type_name=entry["dtype"],
            dtype=_DTYPES.get(entry["dtype"]),
            shape=tuple(entry["shape"]),
            strides=None,
            offset=start + entry["data_offsets"][0],
        )
        for name, entry in entries.items()
        if name != _METADATA_KEY
    }
