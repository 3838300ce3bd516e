"""PyTorch's own files, read without PyTorch: the numbers that PyTorch stored, and its other formats told apart."""

import argparse
import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_search_export.errors import CheckpointError
from clip_search_export.files.tensors import TensorReader
from clip_search_export.files.torch_files import open_torch_file

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.parity


@pytest.fixture
def state_dict() -> dict[str, Any]:
    """Tensors of every kind that checkpoints have: widths, views of one storage, a parameter, a buffer of integers."""
    base = torch.arange(24.0).reshape(4, 6) / 7
    tensors = collections.OrderedDict(
        whole=base,
        transposed=base.t(),
        inner=base[1:, ::2],
        column=base[:, 3],
        half=base[1:3, 2:].half(),
        brain=base.bfloat16(),
        double=base.double(),
        scalar=torch.tensor(3.25),
        parameter=torch.nn.Parameter(base + 1),
        position_ids=torch.arange(5).expand(1, -1),
    )
    tensors._metadata = collections.OrderedDict(version=2)  # type: ignore[attr-defined]
    return tensors


def _check(path: Path, state_dict: dict[str, Any]) -> None:
    reader = TensorReader.open(path.parent, [path.name])
    for name, tensor in state_dict.items():
        assert reader.shape(name) == tuple(tensor.shape)
        if tensor.is_floating_point():
            found = reader.take(name, tuple(tensor.shape))
            assert np.array_equal(found, tensor.detach().float().numpy()), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_is_read(tmp_path: Path, state_dict: dict[str, Any], protocol: int) -> None:
    """What torch.save wrote, in any protocol of pickle, is read to the same numbers."""
    torch.save(state_dict, tmp_path / "pytorch_model.bin", pickle_protocol=protocol)
    _check(tmp_path / "pytorch_model.bin", state_dict)


def test_a_training_checkpoint_is_read(tmp_path: Path, state_dict: dict[str, Any]) -> None:
    """A checkpoint as training scripts write it, with the optimizer's state beside the weights, is read."""
    wrapped = {f"module.{name}": tensor for name, tensor in state_dict.items()}
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.98)}]}
    path = tmp_path / "epoch_3.pt"
    torch.save({"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": optimizer}, path)
    _check(path, state_dict)


def test_other_formats_of_pytorch_are_told_apart(tmp_path: Path, state_dict: dict[str, Any]) -> None:
    """Files before the zip format, TorchScript and pickled modules are each called what they are."""
    path = tmp_path / "ViT-B-32.pt"
    torch.save(state_dict, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"PyTorch before 1\.6"):
        open_torch_file(path)
    torch.save({"args": argparse.Namespace(), "state_dict": state_dict}, path)
    with pytest.raises(CheckpointError, match=r"asks to load 'argparse\.Namespace'"):
        open_torch_file(path)
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match=r"asks to load 'torch\.nn\.modules\.linear\.Linear'"):
        open_torch_file(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_told_apart(tmp_path: Path) -> None:
    """A TorchScript archive is refused with the hub id of the same weights."""
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(CheckpointError, match=r"TorchScript archive.*openai/clip-vit-base-patch32"):
        open_torch_file(path)
