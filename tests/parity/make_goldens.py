"""Writes the files of `tests/goldens`: what open_clip's own towers say of the golden cases.

Run once, from the root of the checkout, where open_clip_torch (3.3 or newer, which brings torch and torchvision) and
clip-search[export] are installed:

    python -m tests.parity.make_goldens

The tests that read the files need none of this.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import open_clip.version
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import QuickGELU, TextTransformer, VisionTransformer
from safetensors.torch import load_file

from tests.unit.export.goldens import CASES, GoldenInputs, golden_file, make_inputs
from tests.unit.export.random_checkpoints import write_open_clip

_DIGITS = 8


def main() -> None:
    """Compute every case and write the files."""
    for family, cases in CASES.items():
        versions = {"open_clip": open_clip.version.__version__, "torch": torch.__version__}
        goldens = {**versions, "cases": {name: _compute(arguments) for name, arguments in cases.items()}}
        golden_file(family).parent.mkdir(exist_ok=True)
        golden_file(family).write_text(json.dumps(goldens, indent=1) + "\n")


def _compute(arguments: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_open_clip(Path(folder), **arguments)
        config = json.loads((Path(folder) / "open_clip_config.json").read_text())
        tensors = load_file(Path(folder) / "open_clip_model.safetensors")
    weights = {key: tensor.float() for key, tensor in tensors.items()}
    inputs = make_inputs(config["model_cfg"])
    with torch.inference_mode():
        image, text = _embed_images(config, weights, inputs), _embed_texts(config, weights, inputs)
    return {"image": _rounded(image), "text": _rounded(text)}


def _embed_images(config: dict[str, Any], weights: dict[str, torch.Tensor], inputs: GoldenInputs) -> torch.Tensor:
    model, vision = config["model_cfg"], config["model_cfg"]["vision_cfg"]
    if isinstance(vision["layers"], list):
        tower = ModifiedResNet(
            layers=vision["layers"],
            output_dim=model["embed_dim"],
            heads=vision["width"] * 32 // vision["head_width"],
            image_size=vision["image_size"],
            width=vision["width"],
        )
    else:
        tower = VisionTransformer(
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            width=vision["width"],
            layers=vision["layers"],
            heads=vision["width"] // vision["head_width"],
            mlp_ratio=vision.get("mlp_ratio", 4.0),
            output_dim=model["embed_dim"],
            act_layer=QuickGELU if model["quick_gelu"] else torch.nn.GELU,
        )
    prefix = "visual."
    own = {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
    # open_clip counts batches in tensors that no checkpoint needs.
    missing = tower.load_state_dict(own, strict=False)
    assert not missing.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in missing.missing_keys)
    pixels = torch.from_numpy(inputs.pixels).double() / 255
    mean, std = (torch.tensor(config["preprocess_cfg"][key], dtype=torch.float64) for key in ("mean", "std"))
    return tower.double().eval()(((pixels - mean) / std).permute(0, 3, 1, 2))


def _embed_texts(config: dict[str, Any], weights: dict[str, torch.Tensor], inputs: GoldenInputs) -> torch.Tensor:
    model, text = config["model_cfg"], config["model_cfg"]["text_cfg"]
    tower = TextTransformer(
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        width=text["width"],
        heads=text["heads"],
        layers=text["layers"],
        output_dim=model["embed_dim"],
        act_layer=QuickGELU if model["quick_gelu"] else torch.nn.GELU,
    )
    own = {key: tensor for key, tensor in weights.items() if not key.startswith("visual.") and key != "logit_scale"}
    tower.load_state_dict(own)
    return tower.double().eval()(torch.from_numpy(inputs.ids))


def _rounded(embeddings: torch.Tensor) -> list[list[float]]:
    unit = torch.nn.functional.normalize(embeddings, dim=-1)
    return [[round(value, _DIGITS) for value in row] for row in unit.tolist()]


if __name__ == "__main__":
    main()
