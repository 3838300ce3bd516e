"""Random weights written piece by piece: what the library reads back, and what an interruption leaves."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bench.towers import random_weights
from bench.towers.random_weights import Tensor, count_parameters, matrix, write_weights

TENSORS = [
    Tensor("scalar", (), 0.0, 4.5),
    matrix("wide", 300, 70, 3),
    Tensor("around one", (1000,), 0.1, 1.0),
]


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    """Names, shapes, and values of the magnitude asked for."""
    write_weights(tmp_path / "file", TENSORS)
    read = load_file(tmp_path / "file")
    assert {name: array.shape for name, array in read.items()} == {tensor.name: tensor.shape for tensor in TENSORS}
    assert {array.dtype for array in read.values()} == {np.dtype(np.float32)}
    assert read["scalar"] == np.float32(4.5)
    assert read["wide"].std() == pytest.approx(1.5 / np.sqrt(210), rel=0.02)
    assert read["around one"].mean() == pytest.approx(1, abs=0.02)
    assert sum(array.size for array in read.values()) == count_parameters(TENSORS)


def test_values_do_not_depend_on_the_size_of_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large tensors are drawn in pieces, and the file is the same every time."""
    write_weights(tmp_path / "whole", TENSORS)
    monkeypatch.setattr(random_weights, "_PIECE_VALUES", 64)
    write_weights(tmp_path / "pieces", TENSORS)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "pieces").read_bytes()


def test_an_interrupted_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later run must not take half a file for a checkpoint."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(random_weights, "_write_values", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_weights(tmp_path / "file", TENSORS)
    assert not (tmp_path / "file").exists()
