"""Exports a checkpoint with optimum and cuts its joint graph into two towers: the peer of the benchmarks.

Reads what transformers reads: CLIP ViT and SigLIP in Hugging Face layout, not OpenCLIP's. Runs where torch is, in the
set-up of `make parity`: `python -m bench.towers.optimum_towers CHECKPOINT FOLDER`.
"""

import sys
import tempfile
from pathlib import Path

import onnx.utils
from optimum.exporters.onnx import main_export

__all__ = ["export_towers"]

_IMAGE_INPUTS = {"pixel_values"}


def export_towers(checkpoint: Path, folder: Path) -> tuple[Path, Path]:
    """Write the two towers into `folder` unless they are there, and return their paths.

    `image.onnx` takes `pixel_values` to `image_embeds`, `text.onnx` takes `input_ids` and, where the model has one,
    `attention_mask` to `text_embeds`.
    """
    towers = folder / "image.onnx", folder / "text.onnx"
    if all(tower.exists() for tower in towers):
        return towers
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as joint:
        path = Path(joint) / "model.onnx"
        main_export(str(checkpoint), output=joint, task="zero-shot-image-classification", opset=18, do_validation=False)
        inputs = {value.name for value in onnx.load(path, load_external_data=False).graph.input}
        for tower, names, output in zip(
            towers, (_IMAGE_INPUTS, inputs - _IMAGE_INPUTS), ("image_embeds", "text_embeds"), strict=True
        ):
            onnx.utils.extract_model(path, tower, sorted(names), [output], check_model=False)
    return towers


if __name__ == "__main__":
    export_towers(Path(sys.argv[1]), Path(sys.argv[2]))
