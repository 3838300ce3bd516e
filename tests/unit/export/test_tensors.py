"""Tensors by name from safetensors, single and sharded: the same numbers, one error for whatever is wrong."""

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from clip_search_export.errors import CheckpointError
from clip_search_export.files.tensors import TensorReader
from tests.unit.export.torch_files import write_torch_file

NAME = "model.safetensors"
FLOATS = np.linspace(-2, 2, 24, dtype=np.float32).reshape(4, 6)


def _open(folder: Path, name: str = NAME) -> TensorReader:
    return TensorReader.open(folder, [name])


def _write(folder: Path, header: object, data: bytes = bytes(96)) -> None:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / NAME).write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def _entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_floats_of_every_width_are_read(tmp_path: Path, dtype: type) -> None:
    """Tensors in FP16, BF16, FP32 and FP64 come out as the numbers that were stored."""
    stored: np.ndarray[Any, Any] = FLOATS.astype(dtype)
    tensors = {"a": stored[:1], "weight": stored, "scalar": np.array(stored[0, 0])}
    save_file(tensors, tmp_path / NAME, metadata={"format": "pt"})
    reader = _open(tmp_path)
    assert np.array_equal(reader.take("weight", (4, 6)), stored.astype(np.float32))
    assert reader.take("scalar", ()) == np.float32(stored[0, 0])
    assert "__metadata__" not in reader


def test_weights_are_mapped_and_not_copied(tmp_path: Path) -> None:
    """An FP32 tensor is a view of the file: it costs no memory until it is used."""
    save_file({"weight": FLOATS}, tmp_path / NAME)
    tensor = _open(tmp_path).take("weight", (4, 6))
    assert not tensor.flags.owndata
    assert not tensor.flags.writeable


@pytest.mark.parametrize("dtype", ["I64", "BOOL", "F8_E4M3", "C64", "U8"])
def test_other_element_types_are_named(tmp_path: Path, dtype: str) -> None:
    """A weight of integers, of complex numbers or of a float too narrow to be one is refused with its type."""
    size = {"I64": 12, "C64": 12}.get(dtype, 96)
    _write(tmp_path, {"weight": _entry(0, 96, [size], dtype)})
    with pytest.raises(CheckpointError, match=rf"weight is of type {dtype}; floating point"):
        _open(tmp_path).take("weight", (size,))


def test_a_number_beyond_fp32_is_refused(tmp_path: Path) -> None:
    """An FP64 weight that FP32 cannot hold is told as not finite, without a warning."""
    save_file({"weight": np.array([1e300])}, tmp_path / NAME)
    with pytest.raises(CheckpointError, match="not finite"):
        _open(tmp_path).take("weight", (1,))


_LISTED_TWICE = b'{"a": %b, "a": %b}' % tuple(json.dumps(_entry(0, 96, shape)).encode() for shape in ([24], [4, 6]))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param({"a": _entry(0, 64, [16]), "b": _entry(32, 96, [16])}, id="overlapping"),
        pytest.param({"a": _entry(0, 32, [8]), "b": _entry(64, 96, [8])}, id="with a gap"),
        pytest.param({"a": _entry(0, 96, [25])}, id="shape larger than its bytes"),
        pytest.param({"a": _entry(0, 200, [50])}, id="beyond the file"),
        pytest.param({"a": _entry(96, 0, [24])}, id="backwards"),
        pytest.param({"a": _entry(0, 96, [1 << 62, 4])}, id="absurd shape"),
        pytest.param({"a": _entry(0, 96, [-24])}, id="negative shape"),
        pytest.param({"a": _entry(0, 96, [24], "F33")}, id="unknown type"),
        pytest.param({"a": {"dtype": "F32"}}, id="incomplete"),
        pytest.param(_LISTED_TWICE, id="listed twice"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"\xff" * 8, id="no text"),
    ],
)
def test_a_devious_header_is_refused(tmp_path: Path, header: object) -> None:
    """A header that contradicts itself or the file is refused by the file's name when it is opened."""
    _write(tmp_path, header)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is no sound safetensors file"):
        _open(tmp_path)


@pytest.mark.parametrize("length", [0, 1 << 40, (1 << 64) - 1])
def test_an_absurd_header_length_is_refused(tmp_path: Path, length: int) -> None:
    """A header said to be longer than the file is refused before anything is allocated."""
    (tmp_path / NAME).write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(CheckpointError, match="no sound safetensors file"):
        _open(tmp_path)


def test_a_pointer_of_git_lfs_is_called_one(tmp_path: Path) -> None:
    """A repository cloned without Git LFS is told what is missing."""
    (tmp_path / NAME).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 605\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        _open(tmp_path)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255))
def test_one_changed_byte_of_the_header_is_an_error_or_another_tensor(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    """Whatever a byte of the header becomes, reading ends in numbers of the asked shape or in the one kind of error."""
    folder = tmp_path_factory.getbasetemp() / "changed"
    folder.mkdir(exist_ok=True)
    save_file({"a": FLOATS, "b": FLOATS[0], "c": FLOATS[:, 0].copy()}, folder / NAME)
    data = bytearray((folder / NAME).read_bytes())
    data[position % (len(data) - 160)] = value
    (folder / NAME).write_bytes(bytes(data))
    try:
        assert _open(folder).take("a", (4, 6)).shape == (4, 6)
    except CheckpointError as error:
        assert str(error)  # noqa: PT017 - either outcome is right.


# --- Shards. ---


def _write_shards(folder: Path, suffix: str) -> tuple[str, str]:
    names = f"model-00001-of-00002{suffix}", f"model-00002-of-00002{suffix}"
    for name, tensors in zip(names, ({"a": FLOATS}, {"b": FLOATS + 1, "c": FLOATS[0]}), strict=True):
        (save_file(tensors, folder / name) if suffix == ".safetensors" else write_torch_file(folder / name, tensors))
    return names


def _write_index(folder: Path, weight_map: object, suffix: str = ".safetensors") -> str:
    (folder / f"model{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return f"model{suffix}"


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_tensors_are_found_in_their_shards(tmp_path: Path, suffix: str) -> None:
    """Each tensor comes from the shard that the index names, in both formats."""
    first, second = _write_shards(tmp_path, suffix)
    reader = _open(tmp_path, _write_index(tmp_path, {"a": first, "b": second, "c": second}, suffix))
    assert np.array_equal(reader.take("a", (4, 6)), FLOATS)
    assert np.array_equal(reader.take("b", (4, 6)), FLOATS + 1)
    assert reader.shape("c") == (6,)


@pytest.mark.parametrize(
    "shard",
    [
        "../model-00001-of-00002.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        "..",
        "",
        ".safetensors",
        "a\0.safetensors",
        "x" * 300 + ".safetensors",
        "model-00001-of-00002.bin",
        "config.json",
        "missing.safetensors",
        7,
        None,
        ["model.safetensors"],
    ],
)
def test_a_shard_that_is_no_file_beside_the_index_is_refused(tmp_path: Path, shard: object) -> None:
    """An index can name files of its own kind in its own folder alone."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    _write_shards(tmp_path, ".safetensors")
    _write_shards(folder, ".bin")
    with pytest.raises(CheckpointError, match="which is not in the folder"):
        _open(folder, _write_index(folder, {"a": shard}))


@pytest.mark.parametrize("weight_map", [None, [], {}, "model.safetensors"])
def test_an_index_without_a_map_is_refused(tmp_path: Path, weight_map: object) -> None:
    """An index that maps nothing is refused by its name."""
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json has no weight_map"):
        _open(tmp_path, _write_index(tmp_path, weight_map))


def test_a_tensor_listed_twice_is_refused(tmp_path: Path) -> None:
    """An index that names two shards for one tensor has no one meaning."""
    first, second = _write_shards(tmp_path, ".safetensors")
    (tmp_path / f"{NAME}.index.json").write_text(f'{{"weight_map": {{"a": "{first}", "a": "{second}"}}}}')
    with pytest.raises(CheckpointError, match="a is listed twice"):
        _open(tmp_path)


def test_a_shard_without_its_tensor_is_named(tmp_path: Path) -> None:
    """A tensor that is not where the index says is told with the shard's name."""
    first, _ = _write_shards(tmp_path, ".safetensors")
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002\.safetensors has no tensor b"):
        _open(tmp_path, _write_index(tmp_path, {"a": first, "b": first}))
