"""The graph builder: precisions, names and the file of constants."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from clip_search_export.graph import GraphBuilder
from clip_search_export.parity import open_session
from clip_search_export.precision import FP16, FP16_STORED, FP32, Precision, precision_of, store


def _product(path: Path, weight: np.ndarray, precision: Precision) -> onnx.ModelProto:
    graph = GraphBuilder("product", precision)
    x = graph.input("x", np.float32, ["batch", weight.shape[0]])
    with graph.scope("layer", 0):
        y = graph.compute("MatMul", [graph.cast(x, graph.arithmetic), graph.weight("weight", weight)], name="y")
    graph.output(graph.cast(y, np.float32), "out", ["batch", weight.shape[1]])
    graph.save(path)
    return onnx.load(path, load_external_data=False)


@pytest.mark.parametrize("precision", [FP32, FP16, FP16_STORED])
def test_large_constants_lie_beside_the_graph_and_are_found(tmp_path: Path, precision: Precision) -> None:
    """A saved graph runs from its file, with its weights in the data file, in every precision."""
    weight = np.random.RandomState(0).standard_normal((64, 32)).astype(np.float32)
    model = _product(tmp_path / "g.onnx", weight, precision)
    (tensor,) = model.graph.initializer
    assert tensor.name == "layer.0.weight"
    assert tensor.data_location == onnx.TensorProto.EXTERNAL
    assert (tmp_path / "g.onnx.data").stat().st_size == weight.size * np.dtype(precision.weights).itemsize
    x = np.eye(64, dtype=np.float32)[:5]
    out = open_session(tmp_path / "g.onnx").run(None, {"x": x})[0]
    assert np.allclose(out, weight[:5], atol=2e-3)


def test_a_weight_that_fp16_cannot_hold_is_multiplied_in_fp32(tmp_path: Path) -> None:
    """A weight beyond the limit keeps its value in an FP16 graph, where FP16 would have made it infinite."""
    weight = np.array([[1e5, 1.0], [0.5, 2.0]], dtype=np.float32)
    model = _product(tmp_path / "g.onnx", weight, FP16)
    assert model.graph.initializer[0].data_type == onnx.TensorProto.FLOAT
    out = open_session(tmp_path / "g.onnx").run(None, {"x": np.array([[1e-3, 1.0]], dtype=np.float32)})[0]
    assert out[0, 0] == pytest.approx(100.5, rel=1e-2)


def test_the_file_of_constants_is_aligned(tmp_path: Path) -> None:
    """Each large constant starts where a page can be mapped."""
    graph = GraphBuilder("aligned", FP32)
    values = [graph.weight(f"w{index}", np.full((700, 3), index, dtype=np.float32)) for index in range(3)]
    graph.output(values[0], "out", [700, 3])
    graph.save(tmp_path / "g.onnx")
    model = onnx.load(tmp_path / "g.onnx")
    offsets = [
        int(entry.value)
        for t in onnx.load(tmp_path / "g.onnx", load_external_data=False).graph.initializer
        for entry in t.external_data
        if entry.key == "offset"
    ]
    assert offsets == sorted(set(offsets))
    assert all(offset % 4096 == 0 for offset in offsets)
    for index, tensor in enumerate(model.graph.initializer):
        assert (onnx.numpy_helper.to_array(tensor) == index).all()


def test_names_are_unique(tmp_path: Path) -> None:
    """Two values that ask for one name get two."""
    graph = GraphBuilder("names", FP32)
    first, second = (graph.weight("same", np.zeros(1, dtype=np.float32)) for _ in range(2))
    assert first.name != second.name


def test_the_limit_decides_what_is_stored_narrow() -> None:
    """Values up to 30,000 are stored in FP16, anything beyond in FP32; so are towers by their activations."""
    assert store(np.array([30_000.0]), FP16).dtype == np.float16
    assert store(np.array([-30_001.0]), FP16).dtype == np.float32
    assert store(np.array([1.0]), FP32).dtype == np.float32
    assert precision_of("fp16", 29_000.0) is FP16
    assert precision_of("fp16", 31_000.0) is FP16_STORED
    assert precision_of("fp32", 31_000.0) is FP32
