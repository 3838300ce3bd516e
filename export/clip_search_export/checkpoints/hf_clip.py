"""Reads CLIP with a vision transformer in Hugging Face layout.

    config.json               model_type clip, text_config, vision_config
    model.safetensors         or model.safetensors.index.json and its shards
    preprocessor_config.json  or the key image_processor in processor_config.json
    tokenizer.json            or vocab.json and merges.txt

Settings that are absent take the defaults of transformers' CLIPTextConfig, CLIPVisionConfig and CLIPImageProcessor.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.checkpoints.settings import Settings
from clip_search_export.checkpoints.tokenizers import read_clip_tokenizer
from clip_search_export.errors import CheckpointError, UnsupportedError
from clip_search_export.tensors import TensorReader, read_json
from clip_search_export.weights import (
    Activation,
    LayerNorm,
    Linear,
    TextTransformer,
    Transformer,
    TransformerBlock,
    VisionTransformer,
)
from clip_search_server.bundle import ImagePreprocessing

__all__ = ["CONFIG_FILES", "WEIGHT_FILES", "read"]

CONFIG_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")
WEIGHT_FILES = ("model.safetensors",)

_LEGACY_EOS_TOKEN_ID = 2
"""Configurations with this id predate a fix in transformers and pool at the highest id of the text instead."""

_TEXT_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
_VISION_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_IMAGE_PROCESSOR_DEFAULTS: Mapping[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": 224,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_convert_rgb": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_RESAMPLING: Mapping[int, Literal["bicubic", "bilinear"]] = {2: "bilinear", 3: "bicubic"}
_ACTIVATIONS: tuple[Activation, ...] = ("quick_gelu", "gelu")


def read(folder: Path) -> Checkpoint:
    """Read the checkpoint in `folder`.

    Raises:
        UnsupportedError: a setting asks for what the tower modules do not implement.
        CheckpointError: a file or tensor is missing, damaged or contradicts the configuration.
    """
    config = Settings(read_json(folder / "config.json"), "config.json", {"projection_dim": 512})
    tensors = TensorReader.open(folder, WEIGHT_FILES)
    tokenizer = read_clip_tokenizer(folder)
    text_config = _tower_config(config, "text_config", _TEXT_DEFAULTS)
    vision_config = _tower_config(config, "vision_config", _VISION_DEFAULTS)
    tokenizer.check_fits(text_config.size("vocab_size"))
    legacy = text_config.token("eos_token_id") == _LEGACY_EOS_TOKEN_ID
    return Checkpoint(
        architecture="CLIP ViT (Hugging Face)",
        image=_read_image_tower(tensors, vision_config, config.size("projection_dim")),
        text=_read_text_tower(tensors, text_config, config.size("projection_dim")),
        logit_scale=math.exp(float(tensors.take("logit_scale", ()))),
        preprocessing=_read_preprocessing(folder, vision_config.size("image_size")),
        tokenizer_json=tokenizer.to_json(),
        text_cleaning="none",
        text_pooling="highest_id" if legacy else "end_token",
        end_token_id=tokenizer.end_token_id,
        pad_token_id=tokenizer.end_token_id,
    )


def _tower_config(config: Settings, key: str, defaults: Mapping[str, Any]) -> Settings:
    # Old configurations carry the object twice; transformers lets the one named `_dict`, with its defaults, prevail.
    legacy_key = f"{key}_dict"
    if config.get(legacy_key) is not None:
        return config.nested(legacy_key, defaults)
    return (
        config.nested(key, defaults) if config.get(key) is not None else Settings({}, f"config.json: {key}", defaults)
    )


def _read_image_tower(tensors: TensorReader, config: Settings, embedding_dim: int) -> VisionTransformer:
    width, patch, size = config.size("hidden_size"), config.size("patch_size"), config.size("image_size")
    config.refuse_unless("num_channels", 3)
    if size % patch:
        raise UnsupportedError(f"config.json: image_size {size} is no multiple of patch_size {patch}.")
    prefix, epsilon = "vision_model", config.number("layer_norm_eps")
    embeddings = f"{prefix}.embeddings"
    return VisionTransformer(
        patch_weight=tensors.take(f"{embeddings}.patch_embedding.weight", (width, 3, patch, patch)),
        class_embedding=tensors.take(f"{embeddings}.class_embedding", (width,)),
        positions=tensors.take(f"{embeddings}.position_embedding.weight", ((size // patch) ** 2 + 1, width)),
        # The misspelling is part of the layout.
        norm_pre=_read_norm(tensors, f"{prefix}.pre_layrnorm", width, epsilon),
        transformer=_read_transformer(tensors, f"{prefix}.encoder.layers", config),
        norm_post=_read_norm(tensors, f"{prefix}.post_layernorm", width, epsilon),
        projection=_transposed(tensors, "visual_projection.weight", width, embedding_dim),
        image_size=size,
    )


def _read_text_tower(tensors: TensorReader, config: Settings, embedding_dim: int) -> TextTransformer:
    width, context = config.size("hidden_size"), config.size("max_position_embeddings")
    prefix = "text_model"
    return TextTransformer(
        token_embedding=tensors.take(f"{prefix}.embeddings.token_embedding.weight", (config.size("vocab_size"), width)),
        positions=tensors.take(f"{prefix}.embeddings.position_embedding.weight", (context, width)),
        transformer=_read_transformer(tensors, f"{prefix}.encoder.layers", config),
        norm_final=_read_norm(tensors, f"{prefix}.final_layer_norm", width, config.number("layer_norm_eps")),
        projection=_transposed(tensors, "text_projection.weight", width, embedding_dim),
    )


def _read_transformer(tensors: TensorReader, prefix: str, config: Settings) -> Transformer:
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    if width % heads:
        raise CheckpointError(f"config.json: hidden_size {width} is no multiple of num_attention_heads {heads}.")
    config.refuse_unless("hidden_act", *_ACTIVATIONS)
    activation: Activation = config.get("hidden_act")
    blocks = tuple(
        _read_block(tensors, f"{prefix}.{index}", config) for index in range(config.size("num_hidden_layers"))
    )
    return Transformer(blocks=blocks, heads=heads, activation=activation)


def _read_block(tensors: TensorReader, prefix: str, config: Settings) -> TransformerBlock:
    width, hidden, epsilon = (
        config.size("hidden_size"),
        config.size("intermediate_size"),
        config.number("layer_norm_eps"),
    )
    query, key, value = (
        _read_linear(tensors, f"{prefix}.self_attn.{part}_proj", width, width) for part in ("q", "k", "v")
    )
    return TransformerBlock(
        norm1=_read_norm(tensors, f"{prefix}.layer_norm1", width, epsilon),
        qkv=Linear(
            weight=np.concatenate([query.weight, key.weight, value.weight], axis=1),
            bias=np.concatenate([query.bias, key.bias, value.bias]),
        ),
        attention_output=_read_linear(tensors, f"{prefix}.self_attn.out_proj", width, width),
        norm2=_read_norm(tensors, f"{prefix}.layer_norm2", width, epsilon),
        mlp_up=_read_linear(tensors, f"{prefix}.mlp.fc1", width, hidden),
        mlp_down=_read_linear(tensors, f"{prefix}.mlp.fc2", hidden, width),
    )


def _read_norm(tensors: TensorReader, prefix: str, width: int, epsilon: float) -> LayerNorm:
    return LayerNorm(
        gain=tensors.take(f"{prefix}.weight", (width,)),
        bias=tensors.take(f"{prefix}.bias", (width,)),
        epsilon=epsilon,
    )


def _read_linear(tensors: TensorReader, prefix: str, inputs: int, outputs: int) -> Linear:
    return Linear(
        weight=_transposed(tensors, f"{prefix}.weight", inputs, outputs),
        bias=tensors.take(f"{prefix}.bias", (outputs,)),
    )


def _transposed(tensors: TensorReader, name: str, inputs: int, outputs: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return tensors.take(name, (outputs, inputs)).T


def _read_preprocessing(folder: Path, image_size: int) -> ImagePreprocessing:
    processor = _image_processor_settings(folder)
    for switch in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        processor.refuse_unless(switch, True, None)
    if abs(processor.number("rescale_factor") * 255 - 1) > 1e-6:  # noqa: PLR2004 - 1/255 as decimals in a file.
        raise UnsupportedError("preprocessor_config.json: a rescale_factor other than 1/255 is not supported.")
    interpolation = _RESAMPLING.get(processor.get("resample"))
    if interpolation is None:
        raise UnsupportedError(f"preprocessor_config.json: resample = {processor.get('resample')!r} is not supported.")
    size, crop = processor.get("size"), bool(processor.get("do_center_crop"))
    if isinstance(size, dict) and "shortest_edge" not in size:
        resize_mode: Literal["shortest", "squash"] = "squash"
        edges = {size.get("height"), size.get("width")}
    else:
        resize_mode = "shortest"
        edges = {size["shortest_edge"] if isinstance(size, dict) else size}
        if not crop:
            raise UnsupportedError(
                "preprocessor_config.json: scaling the shortest edge without a crop gives no square."
            )
    if crop:
        crop_size = processor.get("crop_size")
        edges |= set(crop_size.values()) if isinstance(crop_size, dict) else {crop_size}
    if edges != {image_size}:
        raise UnsupportedError(
            f"preprocessor_config.json: sizes {sorted(map(str, edges))} other than the tower's image_size {image_size}."
        )
    return ImagePreprocessing(
        size=image_size,
        resize_mode=resize_mode,
        interpolation=interpolation,
        crop="floor" if resize_mode == "shortest" else "none",
        mean=processor.rgb("image_mean"),
        std=processor.rgb("image_std"),
    )


def _image_processor_settings(folder: Path) -> Settings:
    if (folder / "preprocessor_config.json").is_file():
        values = read_json(folder / "preprocessor_config.json")
    else:
        values = read_json(folder / "processor_config.json").get("image_processor", {})
    return Settings(values, "preprocessor_config.json", _IMAGE_PROCESSOR_DEFAULTS)
