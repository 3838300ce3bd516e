"""Exports a checkpoint with optimum and cuts the text tower out: the peer of `bench_text_query.py`.

Runs in the set-up of `make parity`, which has torch: `python bench/optimum_text_tower.py CHECKPOINT OUT.onnx`.
"""

import sys
import tempfile
from pathlib import Path

import onnx.utils
from optimum.exporters.onnx import main_export


def export_text_tower(checkpoint: Path, out: Path) -> None:
    """Write the text half of optimum's joint CLIP graph: `input_ids`, `attention_mask` -> `text_embeds`."""
    with tempfile.TemporaryDirectory() as folder:
        main_export(
            str(checkpoint), output=folder, task="zero-shot-image-classification", opset=18, do_validation=False
        )
        joint = Path(folder) / "model.onnx"
        onnx.utils.extract_model(joint, out, ["input_ids", "attention_mask"], ["text_embeds"], check_model=False)


if __name__ == "__main__":
    export_text_tower(Path(sys.argv[1]), Path(sys.argv[2]))
