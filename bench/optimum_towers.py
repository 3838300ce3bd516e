"""Exports a CLIP checkpoint with optimum and cuts its joint graph into two towers: the peer of the benchmarks.

Runs where torch is, in the set-up of `make parity`: `python -m bench.optimum_towers CHECKPOINT FOLDER`.
"""

import sys
import tempfile
from pathlib import Path

import onnx.utils
from optimum.exporters.onnx import main_export

__all__ = ["export_towers"]

_IMAGE = (["pixel_values"], ["image_embeds"])
_TEXT = (["input_ids", "attention_mask"], ["text_embeds"])


def export_towers(checkpoint: Path, folder: Path) -> tuple[Path, Path]:
    """Write the two towers into `folder` unless they are there, and return their paths.

    `image.onnx` takes `pixel_values` to `image_embeds`, `text.onnx` takes `input_ids` and `attention_mask` to
    `text_embeds`; neither makes unit vectors.
    """
    towers = folder / "image.onnx", folder / "text.onnx"
    if all(tower.exists() for tower in towers):
        return towers
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as joint:
        main_export(str(checkpoint), output=joint, task="zero-shot-image-classification", opset=18, do_validation=False)
        for tower, (inputs, outputs) in zip(towers, (_IMAGE, _TEXT), strict=True):
            onnx.utils.extract_model(Path(joint) / "model.onnx", tower, inputs, outputs, check_model=False)
    return towers


if __name__ == "__main__":
    export_towers(Path(sys.argv[1]), Path(sys.argv[2]))
