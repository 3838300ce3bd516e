"""CLIP ModifiedResNet checkpoints with random weights in OpenCLIP layout: true shapes without a download.

Knows nothing of what is measured on it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.towers.clip_texts import HEAD_WIDTH, ClipTexts
from bench.towers.loads import Load, attention, convolution, linear
from bench.towers.random_tokenizers import clip_tokenizer
from bench.towers.random_weights import Tensor, matrix, norm, vector, write_weights

__all__ = ["ClipResNet"]

_EXPANSION, _DOWNSCALING = 4, 32


class _Convolution(NamedTuple):
    """A convolution and the normalization behind it; `side` is that of its result."""

    name: str
    norm: str
    outputs: int
    inputs: int
    kernel: int
    side: int
    gain: float = 1.0  # of the normalization


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipResNet(ClipTexts):
    """Sizes of both towers; the defaults are RN50's. GELU, as in the models that OpenCLIP's authors trained."""

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    embedding_dim: int = 1024
    image_size: int = 224
    pad_id: int = 0

    def image_load(self) -> Load:
        """Return the load of one picture: convolutions, and a pool that attends with one query."""
        load = Load(0.0, 0)
        for layer in self._convolutions():
            load += convolution(layer.side, layer.inputs, layer.outputs, layer.kernel)
        channels, places = self._channels, self._places
        pool = linear(1, channels, channels) + linear(places, channels, 2 * channels) + attention(1, places, channels)
        return load + pool + linear(1, channels, self.embedding_dim)

    def write(self, folder: Path) -> Path:
        """Write config, weights and tokenizer into `folder` once, and return it."""
        if not (folder / "open_clip_model.safetensors").exists():
            folder.mkdir(parents=True, exist_ok=True)
            clip_tokenizer(self.vocabulary).save(str(folder / "tokenizer.json"))
            (folder / "open_clip_config.json").write_text(json.dumps(self._config()))
            write_weights(folder / "open_clip_model.safetensors", [*self.tensors(), *self._statistics()])
        return folder

    def tensors(self) -> list[Tensor]:
        """Return all parameters under OpenCLIP's names."""
        width, channels, pool = self.text_width, self._channels, "visual.attnpool"
        tensors = [
            Tensor("logit_scale", (), 0.0, 4.6052),
            matrix("token_embedding.weight", self.vocabulary, width),
            matrix("positional_embedding", self.context, width),
            *norm("ln_final", width),
            matrix("text_projection", width, self.embedding_dim),
            Tensor(f"{pool}.positional_embedding", (self._places, channels), 0.5),
        ]
        for part, outputs in (("q", channels), ("k", channels), ("v", channels), ("c", self.embedding_dim)):
            # A softmax that picked one place alone would turn rounding into another picture.
            gain = 0.2 if part in {"q", "k"} else 1.0
            tensors += [matrix(f"{pool}.{part}_proj.weight", outputs, channels, gain=gain)]
            tensors += [vector(f"{pool}.{part}_proj.bias", outputs)]
        for layer in self._convolutions():
            tensors += [
                matrix(f"visual.{layer.name}.weight", layer.outputs, layer.inputs, layer.kernel, layer.kernel),
                vector(f"visual.{layer.norm}.weight", layer.outputs, layer.gain),
                vector(f"visual.{layer.norm}.bias", layer.outputs),
            ]
        for index in range(self.text_layers):
            tensors += _open_clip_block(f"transformer.resblocks.{index}", width)
        return tensors

    def _statistics(self) -> Iterator[Tensor]:
        """Yield the batch statistics, which are stored beside the parameters."""
        for layer in self._convolutions():
            yield vector(f"visual.{layer.norm}.running_mean", layer.outputs)
            yield vector(f"visual.{layer.norm}.running_var", layer.outputs, 1.0)

    @property
    def _channels(self) -> int:
        """Of the last stage."""
        return self.width * 2 ** (len(self.blocks) - 1) * _EXPANSION

    @property
    def _places(self) -> int:
        """What the pool attends to: the last stage's places and their mean."""
        return (self.image_size // _DOWNSCALING) ** 2 + 1

    def _convolutions(self) -> Iterator[_Convolution]:
        """Yield all convolutions; where the stride is two, an average pool in front of the last one does it."""
        half, side = self.width // 2, self.image_size // 2
        yield _Convolution("conv1", "bn1", half, 3, 3, side)
        yield _Convolution("conv2", "bn2", half, half, 3, side)
        yield _Convolution("conv3", "bn3", self.width, half, 3, side)
        inputs, side = self.width, side // 2
        for stage, blocks in enumerate(self.blocks):
            planes = self.width * 2**stage
            outputs = planes * _EXPANSION
            for block in range(blocks):
                prefix = f"layer{stage + 1}.{block}"
                yield _Convolution(f"{prefix}.conv1", f"{prefix}.bn1", planes, inputs, 1, side)
                yield _Convolution(f"{prefix}.conv2", f"{prefix}.bn2", planes, planes, 3, side)
                if block == 0:
                    side = side // 2 if stage else side
                    yield _Convolution(f"{prefix}.downsample.0", f"{prefix}.downsample.1", outputs, inputs, 1, side)
                # A gain below one, for features would grow with every block otherwise.
                yield _Convolution(f"{prefix}.conv3", f"{prefix}.bn3", outputs, planes, 1, side, 0.5)
                inputs = outputs

    def _config(self) -> dict[str, object]:
        model = {
            "embed_dim": self.embedding_dim,
            "vision_cfg": {
                "image_size": self.image_size,
                "layers": self.blocks,
                "width": self.width,
                "patch_size": None,
            },
            "text_cfg": {
                "context_length": self.context,
                "vocab_size": self.vocabulary,
                "width": self.text_width,
                "heads": self.text_width // HEAD_WIDTH,
                "layers": self.text_layers,
            },
        }
        preprocessing = {"mean": self.mean, "std": self.std, "interpolation": "bicubic", "resize_mode": "shortest"}
        return {"model_cfg": model, "preprocess_cfg": preprocessing}


def _open_clip_block(prefix: str, width: int) -> list[Tensor]:
    return [
        *norm(f"{prefix}.ln_1", width),
        matrix(f"{prefix}.attn.in_proj_weight", 3 * width, width),
        vector(f"{prefix}.attn.in_proj_bias", 3 * width),
        matrix(f"{prefix}.attn.out_proj.weight", width, width),
        vector(f"{prefix}.attn.out_proj.bias", width),
        *norm(f"{prefix}.ln_2", width),
        matrix(f"{prefix}.mlp.c_fc.weight", 4 * width, width),
        vector(f"{prefix}.mlp.c_fc.bias", 4 * width),
        matrix(f"{prefix}.mlp.c_proj.weight", width, 4 * width),
        vector(f"{prefix}.mlp.c_proj.bias", width),
    ]
