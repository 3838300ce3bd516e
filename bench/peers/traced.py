"""The towers as the ONNX files that clip-as-service loads from a `model_path`; knows nothing of servers.

Its documentation has users trace their model from PyTorch into `textual.onnx` and `visual.onnx`; optimum does that.
The server feeds 32-bit ids and a mask, always 77 long, where the traced graph takes 64-bit ids. Runs where torch is.
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

__all__ = ["write_traced_towers"]

_FED = ("input_ids", "attention_mask")


def write_traced_towers(checkpoint: Path, folder: Path) -> Path:
    """Write `textual.onnx` and `visual.onnx` into `folder` once, and return it."""
    if not (folder / "textual.onnx").exists():
        from bench.towers.optimum_towers import export_towers  # noqa: PLC0415 - torch is needed the first time only

        image, text = export_towers(checkpoint, folder)
        image.rename(folder / "visual.onnx")
        model = onnx.load(text)
        _take_32_bits(model.graph)
        onnx.save(model, folder / "textual.onnx.part")
        (folder / "textual.onnx.part").rename(folder / "textual.onnx")
        text.unlink()
    return folder


def _take_32_bits(graph: onnx.GraphProto) -> None:
    """Let the graph take what the server feeds: both inputs, 32 bits each, whether or not it uses them."""
    used = {value.name: value for value in graph.input}
    casts = []
    for name in _FED:
        if name not in used:
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "length"]))
            continue
        used[name].type.tensor_type.elem_type = TensorProto.INT32
        for node in graph.node:
            node.input[:] = [f"{name}_64" if given == name else given for given in node.input]
        casts.append(helper.make_node("Cast", [name], [f"{name}_64"], to=TensorProto.INT64))
    for cast in reversed(casts):
        graph.node.insert(0, cast)
