"""Reads SigLIP, and SigLIP 2 of fixed resolution, in Hugging Face layout.

    config.json               model_type siglip, text_config, vision_config
    model.safetensors         or model.safetensors.index.json and its shards
    preprocessor_config.json  or the key image_processor in processor_config.json
    tokenizer.json            or spiece.model (SigLIP), tokenizer.model (SigLIP 2)
    tokenizer_config.json     optional: tells SigLIP's tokenizer from SigLIP 2's

Settings that are absent take the defaults of transformers' SiglipTextConfig, SiglipVisionConfig and
SiglipImageProcessor.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.checkpoints.hf_layers import patch_grid, read_blocks, tower_config
from clip_search_export.checkpoints.hf_preprocessing import read_preprocessing
from clip_search_export.checkpoints.layers import read_linear, read_logit_scale, read_norm, read_scalar
from clip_search_export.checkpoints.settings import Settings
from clip_search_export.checkpoints.siglip_tokenizers import read_siglip_tokenizer
from clip_search_export.errors import CheckpointError
from clip_search_export.files.json_files import read_json
from clip_search_export.files.tensors import TensorReader
from clip_search_export.files.weight_files import HUGGING_FACE_WEIGHTS
from clip_search_export.weights import (
    Activation,
    Linear,
    PoolingHead,
    SiglipTextTransformer,
    SiglipVisionTransformer,
    Transformer,
)

__all__ = ["IMAGE_PROCESSOR_DEFAULTS", "read"]

_TEXT_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_VISION_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
IMAGE_PROCESSOR_DEFAULTS: Mapping[str, Any] = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
"""Of transformers' SiglipImageProcessor."""

_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
}


def read(folder: Path) -> Checkpoint:
    """Read the checkpoint in `folder`.

    Raises:
        UnsupportedError: a setting asks for what the tower modules do not implement.
        CheckpointError: a file or tensor is missing, damaged or contradicts the configuration.
    """
    config = Settings(read_json(folder / "config.json"), "config.json")
    tensors = TensorReader.open(folder, HUGGING_FACE_WEIGHTS)
    text_config = tower_config(config, "text_config", _TEXT_DEFAULTS)
    vision_config = tower_config(config, "vision_config", _VISION_DEFAULTS)
    tokenizer = read_siglip_tokenizer(folder)
    tokenizer.check_fits(text_config.size("vocab_size"))
    embedding_dim = vision_config.size("hidden_size")
    return Checkpoint(
        architecture="SigLIP (Hugging Face)",
        image=_read_image_tower(tensors, vision_config),
        text=_read_text_tower(tensors, text_config, embedding_dim),
        logit_scale=read_logit_scale(tensors),
        logit_bias=read_scalar(tensors, "logit_bias"),
        preprocessing=read_preprocessing(folder, vision_config.size("image_size"), IMAGE_PROCESSOR_DEFAULTS),
        tokenizer_json=tokenizer.to_json(),
        text_cleaning=tokenizer.text_cleaning,
        text_pooling="last",
        end_token_id=tokenizer.end_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _read_image_tower(tensors: TensorReader, config: Settings) -> SiglipVisionTransformer:
    width, patch, side = config.size("hidden_size"), config.size("patch_size"), patch_grid(config)
    config.refuse_unless("vision_use_head", True)
    prefix = "vision_model"
    embeddings = f"{prefix}.embeddings"
    return SiglipVisionTransformer(
        patch_weight=tensors.take(f"{embeddings}.patch_embedding.weight", (width, 3, patch, patch)),
        patch_bias=tensors.take(f"{embeddings}.patch_embedding.bias", (width,)),
        positions=tensors.take(f"{embeddings}.position_embedding.weight", (side**2, width)),
        transformer=_read_transformer(tensors, f"{prefix}.encoder.layers", config),
        norm_post=read_norm(tensors, f"{prefix}.post_layernorm", width, config.number("layer_norm_eps")),
        head=_read_pooling_head(tensors, f"{prefix}.head", config),
        image_size=config.size("image_size"),
    )


def _read_pooling_head(tensors: TensorReader, prefix: str, config: Settings) -> PoolingHead:
    width, hidden = config.size("hidden_size"), config.size("intermediate_size")
    # PyTorch's MultiheadAttention stacks query, key and value.
    weight = tensors.take(f"{prefix}.attention.in_proj_weight", (3 * width, width))
    bias = tensors.take(f"{prefix}.attention.in_proj_bias", (3 * width,))
    query, key, value = (
        Linear(weight[part * width : (part + 1) * width].T, bias[part * width : (part + 1) * width])
        for part in range(3)
    )
    return PoolingHead(
        probe=tensors.take(f"{prefix}.probe", (1, 1, width))[0, 0],
        query=query,
        key=key,
        value=value,
        output=read_linear(tensors, f"{prefix}.attention.out_proj", width, width),
        norm=read_norm(tensors, f"{prefix}.layernorm", width, config.number("layer_norm_eps")),
        mlp_up=read_linear(tensors, f"{prefix}.mlp.fc1", width, hidden),
        mlp_down=read_linear(tensors, f"{prefix}.mlp.fc2", hidden, width),
    )


def _read_text_tower(tensors: TensorReader, config: Settings, embedding_dim: int) -> SiglipTextTransformer:
    width, context = config.size("hidden_size"), config.size("max_position_embeddings")
    outputs = width if config.get("projection_size") is None else config.size("projection_size")
    if outputs != embedding_dim:
        raise CheckpointError(
            f"{config.where}: projection_size is {outputs}; pictures have {embedding_dim} dimensions (hidden_size)."
        )
    prefix = "text_model"
    return SiglipTextTransformer(
        token_embedding=tensors.take(f"{prefix}.embeddings.token_embedding.weight", (config.size("vocab_size"), width)),
        positions=tensors.take(f"{prefix}.embeddings.position_embedding.weight", (context, width)),
        transformer=_read_transformer(tensors, f"{prefix}.encoder.layers", config),
        norm_final=read_norm(tensors, f"{prefix}.final_layer_norm", width, config.number("layer_norm_eps")),
        head=read_linear(tensors, f"{prefix}.head", width, outputs),
    )


def _read_transformer(tensors: TensorReader, prefix: str, config: Settings) -> Transformer:
    config.refuse_unless("hidden_act", *_ACTIVATIONS)
    activation = _ACTIVATIONS[config.get("hidden_act")]
    return Transformer(read_blocks(tensors, prefix, config), config.size("num_attention_heads"), activation)
