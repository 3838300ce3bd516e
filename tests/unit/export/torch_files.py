"""Writes files as `torch.save` does, without PyTorch, and files that pretend to be such; for tests.

`tests/parity/test_torch_files.py` compares the reader with PyTorch's own files; these here can be bent in ways in which
PyTorch would not write them.
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

__all__ = ["Call", "Name", "StorageId", "tensor_call", "write_torch_file", "write_zip"]

_STORAGES = {
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.int64): "LongStorage",
}


class Name(NamedTuple):
    """A global, by name."""

    module: str
    name: str


class Call:
    """A call that the reader is asked to make."""

    def __init__(self, function: Name, *arguments: object) -> None:
        self.function = function
        self.arguments = arguments


class StorageId(NamedTuple):
    """What a persistent id says."""

    kind: object
    type_name: Name
    key: object
    device: str
    size: object


_PythonPickler: Any = pickle._Pickler


class _Pickler(_PythonPickler):  # type: ignore[misc]
    """Python's own pickler, which may write names and calls of what does not exist here."""

    def persistent_id(self, value: object) -> object:
        return tuple(value) if type(value) is StorageId else None

    def save(self, value: object, save_persistent_id: bool = True) -> None:
        if type(value) is Name:
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        elif type(value) is Call:
            self.save(value.function)
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(value, save_persistent_id)


def pickle_bytes(value: object) -> bytes:
    """Return `value` as a pickle of the protocol that `torch.save` uses."""
    file = io.BytesIO()
    _Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def tensor_call(key: object, array: npt.NDArray[Any], **changes: Any) -> Call:
    """Return the call that makes a tensor of a storage; `changes` bend its arguments."""
    size = changes.get("size", array.size)
    storage = StorageId("storage", Name("torch", _STORAGES[array.dtype]), key, "cpu", size)
    strides = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
    return Call(
        Name("torch._utils", "_rebuild_tensor_v2"),
        changes.get("storage", storage),
        changes.get("offset", 0),
        changes.get("shape", array.shape),
        changes.get("strides", strides if array.ndim else ()),
        False,
        Call(Name("collections", "OrderedDict")),
    )


def write_torch_file(path: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> Path:
    """Write a state dict."""
    calls = {name: tensor_call(str(index), array) for index, (name, array) in enumerate(tensors.items())}
    storages = {str(index): array.tobytes() for index, array in enumerate(tensors.values())}
    return write_zip(path, calls, storages)


def write_zip(path: Path, value: object, storages: Mapping[str, bytes], **members: bytes) -> Path:
    """Write an archive whose pickle is `value`, or `value` itself if it is bytes already."""
    data = value if isinstance(value, bytes) else pickle_bytes(value)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", members.pop("byteorder", b"little"))
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return path


def set_member_size(path: Path, member: str, size_bytes: int) -> None:
    """Let the archive's directory say that a member has another size than it has."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(member.encode()))
    data[entry + 20 : entry + 28] = struct.pack("<II", size_bytes, size_bytes)
    path.write_bytes(bytes(data))
