"""Writes a trained model as an OpenCLIP checkpoint: `python -m demo.training.publish --work DIR --out demo/weights`.

    open_clip_config.json          sizes and preprocessing, as OpenCLIP writes them
    open_clip_model.safetensors    the running average of the weights, FP16, under OpenCLIP's names
    tokenizer.json                 in the format of the `tokenizers` library

Knows nothing of how the model was trained; `clip-search export` reads the folder.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from demo.training.train import IMAGE_TOWER, MEAN, STD

_SIZE_BYTES_MAX = 12_000_000


def publish(checkpoint: Path, tokenizer: Path, out: Path, earlier: Path | None = None, share: float = 0.0) -> int:
    """Write the checkpoint folder `out` and return its size in bytes.

    Args:
        checkpoint: what training left.
        tokenizer: likewise.
        out: the folder to write.
        earlier: a checkpoint that this one's image tower was trained on from; averaging the weights of both often makes
            a tower that knows unseen styles better than either (Wortsman et al. 2022, arXiv:2109.01903).
        share: how much of the earlier image tower is taken, 0 to 1.
    """
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=False)
    if earlier is not None:
        before = torch.load(earlier, map_location="cpu", weights_only=False)["average"]
        for name, value in state["average"].items():
            if name.startswith(IMAGE_TOWER) and value.is_floating_point():
                value.lerp_(before[name], share)
    out.mkdir(parents=True, exist_ok=True)
    (out / "open_clip_config.json").write_text(json.dumps(_open_clip_config(state["config"]), indent=2) + "\n")
    weights = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in state["average"].items()
    }
    save_file(weights, out / "open_clip_model.safetensors", metadata={"format": "pt"})
    Tokenizer.from_file(str(tokenizer)).save(str(out / "tokenizer.json"), pretty=False)
    return sum(path.stat().st_size for path in out.iterdir() if path.suffix in {".json", ".safetensors"})


def _open_clip_config(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": config["embed_dim"],
            "quick_gelu": False,
            "vision_cfg": {
                "image_size": config["image_size"],
                "layers": config["vision_layers"],
                "width": config["vision_width"],
                "patch_size": config["vision_patch_size"],
            },
            "text_cfg": {
                "context_length": config["context_length"],
                "vocab_size": config["vocab_size"],
                "width": config["text_width"],
                "heads": config["text_heads"],
                "layers": config["text_layers"],
            },
        },
        "preprocess_cfg": {
            "mean": list(MEAN),
            "std": list(STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def main() -> None:
    """Publish what training left in the work folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="the folder that was trained in")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint folder to write")
    parser.add_argument("--average-with", type=Path, metavar="CHECKPOINT", help="an earlier image tower to mix in")
    parser.add_argument("--share", type=float, default=0.2, help="how much of it (default 0.2)")
    arguments = parser.parse_args()
    size_bytes = publish(
        arguments.work / "checkpoint.pt",
        arguments.work / "tokenizer.json",
        arguments.out,
        arguments.average_with,
        arguments.share,
    )
    print(f"{arguments.out}: {size_bytes:,} bytes")
    if size_bytes > _SIZE_BYTES_MAX:
        raise SystemExit(f"that is more than the {_SIZE_BYTES_MAX:,} bytes that may be committed")


if __name__ == "__main__":
    main()
