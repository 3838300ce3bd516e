"""Reads the files that `torch.save` writes, without PyTorch; knows nothing of what the tensors are for.

A zip archive whose members are stored, not compressed:

    NAME/data.pkl       the state dict; see `torch_pickle`
    NAME/data/KEY       one storage each, raw elements
    NAME/byteorder      `little`; absent from older files

Storages are mapped where they lie. Before that format PyTorch wrote bare pickles, and TorchScript archives hold a
program beside the weights: neither is read, and each is called what it is.
"""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from clip_search_export.errors import CheckpointError
from clip_search_export.files.mapped_tensors import LFS_START, MappedTensors, StoredTensor
from clip_search_export.files.torch_pickle import PickledTensor, Storage, read_pickle

__all__ = ["TORCH_SUFFIXES", "open_torch_file"]

TORCH_SUFFIXES = (".bin", ".pt", ".pth")
"""How the names of such files end."""

_SAFETENSORS_OF: Mapping[str, str] = {
    "ViT-B-32": "openai/clip-vit-base-patch32",
    "ViT-B-16": "openai/clip-vit-base-patch16",
    "ViT-L-14": "openai/clip-vit-large-patch14",
    "ViT-L-14-336px": "openai/clip-vit-large-patch14-336",
    "RN50": "timm/resnet50_clip.openai",
    "RN101": "timm/resnet101_clip.openai",
    "RN50x4": "timm/resnet50x4_clip.openai",
    "RN50x16": "timm/resnet50x16_clip.openai",
    "RN50x64": "timm/resnet50x64_clip.openai",
}
"""OpenAI's own files, all of them TorchScript, and the hub ids where the same weights are safetensors."""

_ZIP_START: Final = b"PK\x03\x04"
# The first pickle of the bare format is the number 0x1950a86a20f9469cfc6c.
_LEGACY_START: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")  # the signature, and the lengths of the name and the extra field
_ENCRYPTED_FLAG: Final = 1
# Far beyond any list of tensors: that of a model with 1,000 tensors has 100 KB.
_PICKLE_BYTES_MAX: Final = 16 << 20
_TRAINING_KEY, _TRAINING_PREFIX = "state_dict", "module."


class _FormatError(Exception):
    """Continues a sentence that begins with the file's name."""


def open_torch_file(path: Path) -> MappedTensors:
    """Open the file at `path`.

    A checkpoint written during training, with the weights under `state_dict` beside other things, is accepted, and so
    is the prefix `module.` that distributed training puts before every name.

    Raises:
        CheckpointError: the file is missing, damaged or of another format; says what to use instead.
    """
    try:
        with path.open("rb") as file:
            _check_start(file.read(len(_LEGACY_START)))
        with zipfile.ZipFile(path) as file:
            archive = _Archive(file, path.stat().st_size)
            tensors = archive.locate(_find_state_dict(archive.read_pickle()))
    except (OSError, EOFError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged ({error}): download or copy it again.") from error
    except (_FormatError, CheckpointError) as error:
        raise CheckpointError(f"{path} {error} {_advise(path)}") from error
    return MappedTensors(path, tensors)


class _Archive:
    """The members of one archive, every one of which lies inside the file."""

    def __init__(self, archive: zipfile.ZipFile, size_bytes: int) -> None:
        self._archive = archive
        self._size_bytes = size_bytes
        self._members = {member.filename: member for member in archive.infolist()}
        if len(self._members) < len(archive.infolist()):
            raise _FormatError("has two members of one name.")
        pickles = [name for name in self._members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if any("/code/" in name or name.endswith("/constants.pkl") for name in self._members):
            raise _FormatError("is a TorchScript archive, a program rather than a file of weights.")
        if len(pickles) != 1:
            raise _FormatError("is a zip archive, but none of torch.save.")
        self._root = pickles[0].removesuffix("data.pkl")
        order = self._members.get(f"{self._root}byteorder")
        if order is not None and self._read(order) != b"little":
            raise _FormatError("was written on a big-endian machine.")

    def read_pickle(self) -> object:
        """Return what `data.pkl` describes."""
        return read_pickle(self._read(self._members[f"{self._root}data.pkl"]))

    def locate(self, state_dict: Mapping[str, PickledTensor]) -> dict[str, StoredTensor]:
        """Return where in the file each tensor is, having checked that it lies inside its storage."""
        starts: dict[str, int] = {}
        tensors = {}
        for name, tensor in state_dict.items():
            storage = tensor.storage
            if storage.key not in starts:
                starts[storage.key] = self._find_storage(storage)
            if not _fits(tensor):
                raise _FormatError(f"is damaged: the tensor {name} does not lie inside its storage.")
            itemsize = storage.dtype.itemsize
            tensors[name] = StoredTensor(
                type_name=storage.type_name,
                dtype=storage.dtype if storage.dtype.kind in "fV" else None,  # bfloat16 is of kind V
                shape=tensor.shape,
                strides=tuple(stride * itemsize for stride in tensor.strides),
                offset=starts[storage.key] + tensor.offset * itemsize,
            )
        return tensors

    def _find_storage(self, storage: Storage) -> int:
        member = self._members.get(f"{self._root}data/{storage.key}")
        if member is None or member.file_size < storage.size * storage.dtype.itemsize:
            raise _FormatError(f"is damaged: its storage {storage.key!r} is missing or too short.")
        return self._find_data(member)

    def _read(self, member: zipfile.ZipInfo) -> bytes:
        if member.file_size > _PICKLE_BYTES_MAX:
            raise _FormatError(f"has a member {member.filename!r} of {member.file_size} bytes, which is absurd.")
        self._find_data(member)
        return self._archive.read(member)

    def _find_data(self, member: zipfile.ZipInfo) -> int:
        """Return where the member's bytes begin; its size is what it takes in the file, so that nothing inflates."""
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED_FLAG:
            raise _FormatError(f"has a compressed or encrypted member {member.filename!r}; torch.save writes none.")
        file = self._archive.fp
        if file is None:
            raise ValueError("The archive is closed. This is a bug.")
        file.seek(member.header_offset)
        signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        start = member.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
        if signature != _ZIP_START or start + member.file_size > self._size_bytes:
            raise _FormatError(f"is damaged: its member {member.filename!r} does not lie inside the file.")
        return int(start)


def _check_start(start: bytes) -> None:
    if start == _LEGACY_START:
        raise _FormatError("is a file of PyTorch before 1.6, a bare pickle.")
    if start.startswith(LFS_START):
        raise _FormatError("is a pointer of Git LFS: run `git lfs pull` in its folder.")
    if not start.startswith(_ZIP_START):
        raise _FormatError("is no file of torch.save.")


def _find_state_dict(value: object) -> dict[str, PickledTensor]:
    if isinstance(value, dict) and isinstance(value.get(_TRAINING_KEY), dict):
        value = value[_TRAINING_KEY]
    if not isinstance(value, dict):
        raise _FormatError("holds no state dict.")
    tensors = {name: tensor for name, tensor in value.items() if isinstance(tensor, PickledTensor)}
    if all(str(name).startswith(_TRAINING_PREFIX) for name in tensors):
        return {str(name).removeprefix(_TRAINING_PREFIX): tensor for name, tensor in tensors.items()}
    return {str(name): tensor for name, tensor in tensors.items()}


def _fits(tensor: PickledTensor) -> bool:
    """Tell whether a tensor lies inside its storage and is no larger, as one with a stride of zero might be."""
    if len(tensor.shape) != len(tensor.strides):
        return False
    elements = 1
    last = tensor.offset
    for size, stride in zip(tensor.shape, tensor.strides, strict=True):
        elements *= size
        last += (size - 1) * stride
    return elements == 0 or (elements <= tensor.storage.size and last < tensor.storage.size)


def _advise(path: Path) -> str:
    repository = _SAFETENSORS_OF.get(path.stem)
    if repository is not None:
        return f"The same weights as safetensors have the hub id {repository}: export that."
    return "Use the model's safetensors file instead (model.safetensors or open_clip_model.safetensors)."
