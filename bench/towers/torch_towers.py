"""The towers of a checkpoint as PyTorch modules, and PyTorch's own export of a ModifiedResNet to ONNX.

Checkpoints in Hugging Face layout are loaded by transformers. For OpenCLIP's layout the module is the one that trains
the demo model: its structure and parameter names are OpenCLIP's. Knows nothing of what is measured.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel

from demo.training.model import Clip, ModelConfig

__all__ = ["Towers", "export_towers", "is_open_clip", "load_towers"]

_CONFIG = "open_clip_config.json"


class Towers(NamedTuple):
    """The module and how it embeds: `image` normalised pictures (batch, 3, size, size), `text` ids (batch, length).

    `memory_format` is the one in which it takes pictures fastest.
    """

    module: nn.Module
    image: Callable[[Tensor], Tensor]
    text: Callable[[Tensor], Tensor]
    memory_format: torch.memory_format = torch.contiguous_format


class _Method(nn.Module):
    """One method of a model as a module, as the exporter wants it."""

    def __init__(self, model: nn.Module, method: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, inputs: Tensor) -> Tensor:
        """Call the method."""
        return self.method(inputs)


def is_open_clip(checkpoint: Path) -> bool:
    """Return whether `checkpoint` has OpenCLIP's layout."""
    return (checkpoint / _CONFIG).exists()


def load_towers(checkpoint: Path, dtype: torch.dtype) -> Towers:
    """Load both towers in `dtype`, for inference."""
    if is_open_clip(checkpoint):
        # Many convolutions are fastest in PyTorch with channels last.
        last = torch.channels_last
        model = _load_open_clip(checkpoint).to(dtype=dtype, memory_format=last)
        return Towers(model, model.encode_image, model.encode_text, last)
    model = AutoModel.from_pretrained(checkpoint, dtype=dtype).eval()
    return Towers(
        model,
        lambda pixels: model.get_image_features(pixel_values=pixels),
        lambda ids: model.get_text_features(input_ids=ids),
    )


def export_towers(checkpoint: Path, folder: Path) -> tuple[Path, Path]:
    """Trace a checkpoint of OpenCLIP's layout into `folder` unless it is there, and return the paths of both towers.

    Their inputs and outputs have the names that optimum gives them.
    """
    towers = folder / "image.onnx", folder / "text.onnx"
    if all(tower.exists() for tower in towers):
        return towers
    folder.mkdir(parents=True, exist_ok=True)
    model = _load_open_clip(checkpoint)
    config = model.config
    pictures = torch.zeros(2, 3, config.image_size, config.image_size)
    ids = torch.arange(2 * config.context_length).view(2, -1) % config.vocab_size
    for path, method, example, (source, result), axes in (
        (towers[0], model.encode_image, pictures, ("pixel_values", "image_embeds"), {0: "batch"}),
        (towers[1], model.encode_text, ids, ("input_ids", "text_embeds"), {0: "batch", 1: "length"}),
    ):
        torch.onnx.export(
            _Method(model, method),
            (example,),
            path,
            dynamo=False,
            opset_version=18,
            input_names=[source],
            output_names=[result],
            dynamic_axes={source: axes, result: {0: "batch"}},
        )
    return towers


def _load_open_clip(checkpoint: Path) -> Clip:
    config = json.loads((checkpoint / _CONFIG).read_text())["model_cfg"]
    vision, text = config["vision_cfg"], config["text_cfg"]
    sizes = ModelConfig(
        embed_dim=config["embed_dim"],
        image_size=vision["image_size"],
        vision_layers=tuple(vision["layers"]),
        vision_width=vision["width"],
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        text_width=text["width"],
        text_heads=text["heads"],
        text_layers=text["layers"],
    )
    model = Clip(sizes).eval()
    missing, unexpected = model.load_state_dict(load_file(checkpoint / "open_clip_model.safetensors"), strict=False)
    # A module counts the batches it has seen; a released checkpoint may leave that out, and inference does not read it.
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise RuntimeError(f"the module and the checkpoint differ: {missing}, {unexpected}. This is a bug.")
    return model
