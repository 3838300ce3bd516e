"""Reads CLIP with a vision transformer in Hugging Face layout.

    config.json               model_type clip, text_config, vision_config
    model.safetensors         or another of `weight_files.HUGGING_FACE_WEIGHTS`
    preprocessor_config.json  or the key image_processor in processor_config.json
    tokenizer.json            or vocab.json and merges.txt

Settings that are absent take the defaults of transformers' CLIPTextConfig, CLIPVisionConfig and CLIPImageProcessor.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.checkpoints.hf_layers import patch_grid, read_blocks, tower_config
from clip_search_export.checkpoints.hf_preprocessing import read_preprocessing
from clip_search_export.checkpoints.layers import read_logit_scale, read_norm, read_transposed
from clip_search_export.checkpoints.settings import Settings
from clip_search_export.checkpoints.tokenizers import read_clip_tokenizer
from clip_search_export.files.json_files import read_json
from clip_search_export.files.tensors import TensorReader
from clip_search_export.files.weight_files import HUGGING_FACE_WEIGHTS
from clip_search_export.weights import Activation, TextTransformer, Transformer, VisionTransformer

__all__ = ["CONFIG_FILES", "IMAGE_PROCESSOR_DEFAULTS", "LEGACY_EOS_TOKEN_ID", "read"]

CONFIG_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")

LEGACY_EOS_TOKEN_ID = 2
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
IMAGE_PROCESSOR_DEFAULTS: Mapping[str, Any] = {
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
"""Of transformers' CLIPImageProcessor and ChineseCLIPImageProcessor."""

_ACTIVATIONS: tuple[Activation, ...] = ("quick_gelu", "gelu")


def read(folder: Path) -> Checkpoint:
    """Read the checkpoint in `folder`.

    Raises:
        UnsupportedError: a setting asks for what the tower modules do not implement.
        CheckpointError: a file or tensor is missing, damaged or contradicts the configuration.
    """
    config = Settings(read_json(folder / "config.json"), "config.json", {"projection_dim": 512})
    tensors = TensorReader.open(folder, HUGGING_FACE_WEIGHTS)
    tokenizer = read_clip_tokenizer(folder)
    text_config = _tower_config(config, "text_config", _TEXT_DEFAULTS)
    vision_config = _tower_config(config, "vision_config", _VISION_DEFAULTS)
    tokenizer.check_fits(text_config.size("vocab_size"))
    legacy = text_config.token("eos_token_id") == LEGACY_EOS_TOKEN_ID
    return Checkpoint(
        architecture="CLIP ViT (Hugging Face)",
        image=_read_image_tower(tensors, vision_config, config.size("projection_dim")),
        text=_read_text_tower(tensors, text_config, config.size("projection_dim")),
        logit_scale=read_logit_scale(tensors),
        preprocessing=read_preprocessing(folder, vision_config.size("image_size"), IMAGE_PROCESSOR_DEFAULTS),
        tokenizer_json=tokenizer.to_json(),
        text_cleaning="none",
        text_pooling="highest_id" if legacy else "end_token",
        end_token_id=tokenizer.end_token_id,
        pad_token_id=tokenizer.end_token_id,
    )


def _tower_config(config: Settings, key: str, defaults: Mapping[str, Any]) -> Settings:
    # Old configurations carry the object twice; transformers lets the one named `_dict`, with its defaults, prevail.
    legacy_key = f"{key}_dict"
    return tower_config(config, legacy_key if config.get(legacy_key) is not None else key, defaults)


def _read_image_tower(tensors: TensorReader, config: Settings, embedding_dim: int) -> VisionTransformer:
    width, patch, side = config.size("hidden_size"), config.size("patch_size"), patch_grid(config)
    prefix, epsilon = "vision_model", config.number("layer_norm_eps")
    embeddings = f"{prefix}.embeddings"
    return VisionTransformer(
        patch_weight=tensors.take(f"{embeddings}.patch_embedding.weight", (width, 3, patch, patch)),
        class_embedding=tensors.take(f"{embeddings}.class_embedding", (width,)),
        positions=tensors.take(f"{embeddings}.position_embedding.weight", (side**2 + 1, width)),
        # The misspelling is part of the layout.
        norm_pre=read_norm(tensors, f"{prefix}.pre_layrnorm", width, epsilon),
        transformer=_read_transformer(tensors, f"{prefix}.encoder.layers", config),
        norm_post=read_norm(tensors, f"{prefix}.post_layernorm", width, epsilon),
        projection=read_transposed(tensors, "visual_projection.weight", width, embedding_dim),
        image_size=config.size("image_size"),
    )


def _read_text_tower(tensors: TensorReader, config: Settings, embedding_dim: int) -> TextTransformer:
    width, context = config.size("hidden_size"), config.size("max_position_embeddings")
    prefix = "text_model"
    return TextTransformer(
        token_embedding=tensors.take(f"{prefix}.embeddings.token_embedding.weight", (config.size("vocab_size"), width)),
        positions=tensors.take(f"{prefix}.embeddings.position_embedding.weight", (context, width)),
        transformer=_read_transformer(tensors, f"{prefix}.encoder.layers", config),
        norm_final=read_norm(tensors, f"{prefix}.final_layer_norm", width, config.number("layer_norm_eps")),
        projection=read_transposed(tensors, "text_projection.weight", width, embedding_dim),
    )


def _read_transformer(tensors: TensorReader, prefix: str, config: Settings) -> Transformer:
    config.refuse_unless("hidden_act", *_ACTIVATIONS)
    activation: Activation = config.get("hidden_act")
    return Transformer(read_blocks(tensors, prefix, config), config.size("num_attention_heads"), activation)
