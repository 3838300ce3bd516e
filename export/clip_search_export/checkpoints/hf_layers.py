"""Reads the transformer blocks and tower configurations of Hugging Face's layout, which CLIP and SigLIP share.

Knows nothing of what stands before and behind the blocks.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from clip_search_export.checkpoints.layers import read_linear, read_norm
from clip_search_export.checkpoints.settings import Settings
from clip_search_export.errors import CheckpointError
from clip_search_export.files.tensors import TensorReader
from clip_search_export.weights import Linear, TransformerBlock

__all__ = ["patch_grid", "read_blocks", "tower_config"]


def tower_config(config: Settings, key: str, defaults: Mapping[str, Any]) -> Settings:
    """Return one tower's object of `config.json`, or its defaults where the file has none."""
    if config.get(key) is None:
        return Settings({}, f"config.json: {key}", defaults)
    return config.nested(key, defaults)


def patch_grid(config: Settings) -> int:
    """Return how many patches a side of the picture has; what does not fill a patch at its end is not seen.

    Raises:
        CheckpointError: a patch is larger than the picture, or the sizes are none.
        UnsupportedError: pictures have channels other than red, green and blue.
    """
    config.refuse_unless("num_channels", 3)
    size, patch = config.size("image_size"), config.size("patch_size")
    if patch > size:
        raise CheckpointError(f"{config.where}: patch_size {patch} is larger than image_size {size}.")
    return size // patch


def read_blocks(tensors: TensorReader, prefix: str, config: Settings) -> tuple[TransformerBlock, ...]:
    """Read all blocks below `prefix`.

    Raises:
        CheckpointError: the heads do not divide the width, or a tensor is not as configured.
    """
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    if width % heads:
        raise CheckpointError(f"{config.where}: hidden_size {width} is no multiple of num_attention_heads {heads}.")
    return tuple(_read_block(tensors, f"{prefix}.{index}", config) for index in range(config.size("num_hidden_layers")))


def _read_block(tensors: TensorReader, prefix: str, config: Settings) -> TransformerBlock:
    width, hidden = config.size("hidden_size"), config.size("intermediate_size")
    epsilon = config.number("layer_norm_eps")
    query, key, value = (
        read_linear(tensors, f"{prefix}.self_attn.{part}_proj", width, width) for part in ("q", "k", "v")
    )
    return TransformerBlock(
        norm1=read_norm(tensors, f"{prefix}.layer_norm1", width, epsilon),
        qkv=Linear(
            weight=np.concatenate([query.weight, key.weight, value.weight], axis=1),
            bias=np.concatenate([query.bias, key.bias, value.bias]),
        ),
        attention_output=read_linear(tensors, f"{prefix}.self_attn.out_proj", width, width),
        norm2=read_norm(tensors, f"{prefix}.layer_norm2", width, epsilon),
        mlp_up=read_linear(tensors, f"{prefix}.mlp.fc1", width, hidden),
        mlp_down=read_linear(tensors, f"{prefix}.mlp.fc2", hidden, width),
    )
