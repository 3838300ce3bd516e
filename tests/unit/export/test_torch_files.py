"""Files of PyTorch read without PyTorch: the same numbers, and nothing that a file asks for is run."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from clip_search_export.errors import CheckpointError
from clip_search_export.files.tensors import TensorReader
from clip_search_export.files.torch_files import open_torch_file
from clip_search_export.files.torch_pickle import read_pickle
from tests.unit.export.torch_files import (
    Call,
    Name,
    StorageId,
    pickle_bytes,
    set_member_size,
    tensor_call,
    write_torch_file,
    write_zip,
)

FLOATS = np.linspace(-2, 2, 24, dtype=np.float32).reshape(4, 6)
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is written."""
    return tmp_path / "pytorch_model.bin"


def _take(path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return TensorReader.open(path.parent, [path.name]).take(name, shape)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_floats_of_every_width_are_read(path: Path, dtype: type) -> None:
    """Tensors in FP16, BF16, FP32 and FP64 come out as the numbers that were stored."""
    stored: np.ndarray[Any, Any] = FLOATS.astype(dtype)
    write_torch_file(path, {"first": stored[:1], "weight": stored, "scalar": stored[0, 0]})
    assert np.array_equal(_take(path, "weight", (4, 6)), stored.astype(np.float32))
    assert _take(path, "scalar", ()) == np.float32(stored[0, 0])


def test_a_view_is_read_by_its_strides_and_offset(path: Path) -> None:
    """Tensors that share one storage, transposed or cut out of it, are read as PyTorch would see them."""
    calls = {
        "whole": tensor_call("0", FLOATS),
        "transposed": tensor_call("0", FLOATS, shape=(6, 4), strides=(1, 6)),
        "inner": tensor_call("0", FLOATS, shape=(2, 3), strides=(12, 2), offset=7),
        "column": Call(Name("torch._utils", "_rebuild_parameter"), tensor_call("0", FLOATS, shape=(4,), strides=(6,))),
    }
    write_zip(path, calls, {"0": FLOATS.tobytes()})
    assert np.array_equal(_take(path, "transposed", (6, 4)), FLOATS.T)
    assert np.array_equal(_take(path, "inner", (2, 3)), FLOATS[1::2, 1::2])
    assert np.array_equal(_take(path, "column", (4,)), FLOATS[:, 0])


def test_weights_are_mapped_and_not_copied(path: Path) -> None:
    """An FP32 tensor is a view of the file: it costs no memory until it is used."""
    write_torch_file(path, {"weight": FLOATS})
    tensor = _take(path, "weight", (4, 6))
    assert not tensor.flags.owndata
    assert not tensor.flags.writeable


def test_a_training_checkpoint_is_read_under_its_wrapping(path: Path) -> None:
    """Weights under `state_dict`, with the prefix that distributed training adds, are found."""
    state = {"module.weight": tensor_call("0", FLOATS)}
    write_zip(
        path, {"epoch": 3, "state_dict": state, "optimizer": {"state": {0: [1.5, None, True]}}}, {"0": FLOATS.tobytes()}
    )
    assert list(open_torch_file(path)) == ["weight"]


def test_integers_are_no_weights(path: Path) -> None:
    """A tensor of integers may be in the file, as position ids are, but not where weights are expected."""
    write_torch_file(path, {"position_ids": np.arange(4), "weight": FLOATS})
    assert _take(path, "weight", (4, 6)).shape == (4, 6)
    with pytest.raises(CheckpointError, match=r"position_ids is of type LongStorage; floating point"):
        _take(path, "position_ids", (4,))


class _Touch:
    """A pickle of this creates a file when Python's own machine reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_malicious_pickle_runs_nothing_and_is_named(path: Path, protocol: int) -> None:
    """A pickle that would run a command is refused by the name it asks for, whatever the protocol; nothing runs."""
    touched = path.with_name("touched")
    write_zip(path, pickle.dumps({"weight": _Touch(touched)}, protocol), {})
    with pytest.raises(CheckpointError) as told:
        open_torch_file(path)
    assert not touched.exists()
    if protocol >= 2:
        assert "asks to load 'posix.system'" in str(told.value)
        assert "Use the model's safetensors file instead" in str(told.value)
    # The file does what the test believes: Python's own machine creates the file.
    pickle.loads(pickle.dumps(_Touch(touched), protocol))
    assert touched.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "builtins.getattr",
        "torch.load",
        "torch.storage._load_from_bytes",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch._utils._rebuild_tensor_v2.__globals__",
        "collections.OrderedDict.update",
        "numpy._core.multiarray._reconstruct",
        "argparse.Namespace",
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_no_other_name_can_be_asked_for(path: Path, name: str, nested: bool) -> None:
    """Every name that is not on the list is refused before it is called, however deep it is hidden."""
    call = Call(Name(*name.rsplit(".", 1)), "boom")
    value = {"weight": [({"deep": Call(Name("collections", "OrderedDict"), call)},)]} if nested else {"weight": call}
    write_zip(path, value, {})
    with pytest.raises(CheckpointError) as told:
        open_torch_file(path)
    assert f"asks to load {name!r}" in str(told.value)


def _reduce(function: bytes, arguments: bytes) -> bytes:
    return b"\x80\x02" + function + arguments + b"R."


ORDERED_DICT = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x80\x02}q\x00", id="no end"),
        pytest.param(b"\x80\x02.", id="nothing on the stack"),
        pytest.param(b"\x80\x02h\x07.", id="memo not set"),
        pytest.param(b"\x80\x02u.", id="no mark"),
        pytest.param(_reduce(ORDERED_DICT, b"]"), id="arguments that are a list"),
        pytest.param(_reduce(b"X\x01\x00\x00\x00a", b")"), id="call of a string"),
        pytest.param(_reduce(REBUILD, b")"), id="tensor of nothing"),
        pytest.param(_reduce(REBUILD, b"(K\x01K\x02K\x03K\x04t"), id="tensor of numbers"),
        pytest.param(b"\x80\x02" + REBUILD + b"}X\x08\x00\x00\x00__code__K\x01sb.", id="attributes of a function"),
        pytest.param(b"\x80\x02" + ORDERED_DICT + b"N}X\x06\x00\x00\x00updateK\x01s\x86b.", id="attributes of a class"),
        pytest.param(b"\x80\x02})K\x01s.", id="tuple as a key"),
        pytest.param(b"\x80\x02X\xff\xff\xff\x7fab.", id="string longer than the file"),
        pytest.param(b"\x80\x02K\x01Q.", id="persistent id that is no tuple"),
        pytest.param(b"\x80\x02cposix\x1b[2J\nsystem\n.", id="escape sequence in a name"),
        pytest.param(b"cos\nsystem\n(S'boom'\ntR.", id="protocol 0"),
        pytest.param(b"(S'boom'\nios\nsystem\n.", id="inst"),
        pytest.param(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04boom\x85R.", id="protocol 4"),
        pytest.param(b"\x80\x02\x82\x01.", id="extension registry"),
        pytest.param(b"\x80\x02" + ORDERED_DICT + b")\x81.", id="new object"),
        pytest.param(bytes(range(256)), id="no pickle"),
    ],
)
def test_a_damaged_or_devious_pickle_is_an_error(data: bytes) -> None:
    """Whatever the bytes are, reading them as a pickle ends in one printable error."""
    with pytest.raises(CheckpointError) as told:
        read_pickle(data)
    assert str(told.value).isprintable()


def test_a_pickle_cannot_ask_for_memory_that_it_does_not_fill() -> None:
    """A memo index of four thousand million is one entry, where Python's own machine would reserve the whole table."""
    assert read_pickle(b"\x80\x02K\x07r\xff\xff\xff\xff.") == 7


@pytest.mark.timeout(20)
def test_a_pickle_of_nested_tuples_takes_no_longer_than_its_length() -> None:
    """Tuples nested so that hashing or printing one would take forever are refused as keys without doing either."""
    nested = b"\x80\x02)" + b"".join(b"q\x00h\x00\x86" for _ in range(90))
    with pytest.raises(CheckpointError):
        read_pickle(nested + b"q\x01}h\x01K\x01s.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (5, 6)}, "does not lie inside its storage"),
        ({"offset": 1}, "does not lie inside its storage"),
        ({"strides": (6, 2)}, "does not lie inside its storage"),
        ({"strides": (6,)}, "does not lie inside its storage"),
        ({"shape": (1 << 20, 1 << 20), "strides": (0, 0)}, "does not lie inside its storage"),
        ({"size": 25}, "storage '0' is missing or too short"),
        ({"size": 1 << 60}, "storage '0' is missing or too short"),
        ({"offset": -1}, "damaged pickle"),
        ({"strides": (-6, 1)}, "damaged pickle"),
        ({"shape": (1 << 80, 1)}, "damaged pickle"),
        ({"shape": (4.0, 6)}, "damaged pickle"),
        ({"storage": "0"}, "damaged pickle"),
        ({"storage": StorageId("module", Name("torch", "FloatStorage"), "0", "cpu", 24)}, "damaged pickle"),
        (
            {"storage": StorageId("storage", Name("torch", "FloatStorage"), "../../x", "cpu", 24)},
            "missing or too short",
        ),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(path: Path, changes: dict[str, Any], message: str) -> None:
    """Shapes, strides and offsets that lead out of the storage, or make much of little, are refused on opening."""
    write_zip(path, {"weight": tensor_call("0", FLOATS, **changes)}, {"0": FLOATS.tobytes()})
    with pytest.raises(CheckpointError, match=message):
        open_torch_file(path)


@pytest.mark.parametrize("member", ["archive/data/0", "archive/data.pkl"])
@pytest.mark.parametrize("size_bytes", [1 << 20, 0xFFFFFFF0])
def test_a_member_larger_than_the_file_is_refused(path: Path, member: str, size_bytes: int) -> None:
    """A directory that claims more bytes than there are is told from the file's own size; nothing is allocated."""
    set_member_size(write_torch_file(path, {"weight": FLOATS}), member, size_bytes)
    with pytest.raises(CheckpointError, match=r"does not lie inside the file|absurd|damaged"):
        open_torch_file(path)


def test_a_compressed_archive_is_refused(path: Path) -> None:
    """An archive that would inflate is refused: torch.save compresses nothing."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle_bytes({"weight": tensor_call("0", FLOATS)}))
        archive.writestr("archive/data/0", bytes(FLOATS.nbytes))
    with pytest.raises(CheckpointError, match=r"compressed or encrypted member 'archive/data\.pkl'"):
        open_torch_file(path)


@pytest.mark.parametrize("share", [0.001, 0.005, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(path: Path, share: float) -> None:
    """A file cut anywhere is refused by its name."""
    data = write_torch_file(path, {"weight": FLOATS}).read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is (damaged|no file of torch\.save)"):
        open_torch_file(path)


def test_a_torchscript_archive_names_the_hub_id(tmp_path: Path) -> None:
    """OpenAI's own files are told to be TorchScript, with the id under which the same weights are safetensors."""
    path = write_zip(tmp_path / "ViT-B-16.pt", {}, {}, **{"code/model.py": b"", "constants.pkl": b""})
    with pytest.raises(CheckpointError, match=r"is a TorchScript archive.*openai/clip-vit-base-patch16"):
        open_torch_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LEGACY_START + b"\x80\x02M\xe9\x03.", r"is a file of PyTorch before 1\.6"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a pointer of Git LFS"),
        (b"", r"is no file of torch\.save"),
        (b"PK\x03\x04 and nothing more", "is damaged"),
    ],
)
def test_other_formats_are_called_what_they_are(path: Path, content: bytes, message: str) -> None:
    """Old pickles, pointers of Git LFS and other files are told apart, with what to do."""
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_torch_file(path)


@pytest.mark.parametrize("value", [[1, 2], 7, None, "text"])
def test_a_pickle_without_a_state_dict_is_refused(path: Path, value: object) -> None:
    """An archive of something else than named tensors is refused."""
    write_zip(path, value, {})
    with pytest.raises(CheckpointError, match="holds no state dict"):
        open_torch_file(path)


def test_numbers_of_another_byte_order_are_refused(path: Path) -> None:
    """A file from a big-endian machine is refused rather than misread."""
    write_zip(path, {"weight": tensor_call("0", FLOATS)}, {"0": FLOATS.tobytes()}, byteorder=b"big")
    with pytest.raises(CheckpointError, match="big-endian"):
        open_torch_file(path)


def test_two_members_of_one_name_are_refused(path: Path) -> None:
    """An archive in which a storage comes twice has no one meaning."""
    write_torch_file(path, {"weight": FLOATS})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data/0", bytes(FLOATS.nbytes))
    with pytest.raises(CheckpointError, match="two members of one name"):
        open_torch_file(path)
