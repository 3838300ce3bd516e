"""Reads CLIP in OpenCLIP layout: a vision transformer or a modified ResNet, and CLIP's own text transformer.

    open_clip_config.json         model_cfg (embed_dim, vision_cfg, text_cfg), preprocess_cfg
    open_clip_model.safetensors   or another of `weight_files.OPEN_CLIP_WEIGHTS`; tensors named as in open_clip and
                                  openai/CLIP
    tokenizer.json                or vocab.json and merges.txt

Settings that are absent take open_clip's defaults (CLIPVisionCfg, CLIPTextCfg, PreprocessCfg).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.checkpoints.layers import read_linear, read_logit_scale, read_norm, read_scalar
from clip_search_export.checkpoints.open_clip_options import check_options
from clip_search_export.checkpoints.open_clip_resnet import read_modified_resnet
from clip_search_export.checkpoints.open_clip_tokenizers import read_text_settings
from clip_search_export.checkpoints.settings import Settings
from clip_search_export.errors import CheckpointError, UnsupportedError
from clip_search_export.files.json_files import read_json
from clip_search_export.files.tensors import TensorReader
from clip_search_export.files.weight_files import OPEN_CLIP_WEIGHTS
from clip_search_export.weights import (
    Activation,
    Linear,
    TextTransformer,
    Transformer,
    TransformerBlock,
    VisionTransformer,
)
from clip_search_server.bundle import ImagePreprocessing

__all__ = ["CONFIG_FILES", "read"]

CONFIG_FILES = ("open_clip_config.json",)

_NORM_EPSILON = 1e-5  # PyTorch's default of LayerNorm, in force where norm_kwargs says nothing.
_VISION_DEFAULTS: Mapping[str, Any] = {
    "layers": 12,
    "width": 768,
    "head_width": 64,
    "mlp_ratio": 4.0,
    "patch_size": 16,
    "image_size": 224,
}
_TEXT_DEFAULTS: Mapping[str, Any] = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 512,
    "heads": 8,
    "layers": 12,
    "mlp_ratio": 4.0,
    "pool_type": "argmax",
    "eos_id": 2,
}
_PREPROCESS_DEFAULTS: Mapping[str, Any] = {
    "mode": "RGB",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


class _Shape(NamedTuple):
    """The dimensions of a stack of blocks."""

    width: int
    heads: int
    hidden: int
    layers: int
    epsilon: float


def read(folder: Path) -> Checkpoint:
    """Read the checkpoint in `folder`.

    Raises:
        UnsupportedError: an option asks for towers other than CLIP's own; names it.
        CheckpointError: a file or tensor is missing, damaged or contradicts the configuration.
    """
    document = Settings(read_json(folder / "open_clip_config.json"), "open_clip_config.json")
    model = document.nested("model_cfg")
    vision, text = model.nested("vision_cfg", _VISION_DEFAULTS), model.nested("text_cfg", _TEXT_DEFAULTS)
    check_options(model, vision, text)
    tensors = TensorReader.open(folder, OPEN_CLIP_WEIGHTS)
    settings = read_text_settings(folder, text)
    activation: Activation = "quick_gelu" if _is_on(model, "quick_gelu") else "gelu"
    dim, resnet = model.size("embed_dim"), isinstance(vision.get("layers"), list)
    return Checkpoint(
        architecture=f"CLIP {'ModifiedResNet' if resnet else 'ViT'} (OpenCLIP)",
        image=read_modified_resnet(tensors, vision, dim) if resnet else _read_vit(tensors, vision, dim, activation),
        text=_read_text_tower(tensors, text, dim, activation),
        logit_scale=read_logit_scale(tensors),
        logit_bias=None if model.get("init_logit_bias") is None else read_scalar(tensors, "logit_bias"),
        preprocessing=_read_preprocessing(document, vision.square("image_size")),
        tokenizer_json=settings.tokenizer.to_json(),
        text_cleaning=settings.cleaning,
        text_pooling=settings.pooling,
        end_token_id=settings.tokenizer.end_token_id,
        pad_token_id=0,
    )


def _is_on(model: Settings, key: str) -> bool:
    model.refuse_unless(key, True, False, None)
    return bool(model.get(key))


def _read_vit(tensors: TensorReader, config: Settings, embedding_dim: int, activation: Activation) -> VisionTransformer:
    patch, size = config.square("patch_size"), config.square("image_size")
    if patch > size:
        raise CheckpointError(f"{config.where}: patch_size {patch} is larger than image_size {size}.")
    # open_clip counts the heads so (model.py, _build_vision_tower).
    shape = _shape(config, config.size("width") // config.size("head_width"))
    width = shape.width
    return VisionTransformer(
        patch_weight=tensors.take("visual.conv1.weight", (width, 3, patch, patch)),
        class_embedding=tensors.take("visual.class_embedding", (width,)),
        positions=tensors.take("visual.positional_embedding", ((size // patch) ** 2 + 1, width)),
        norm_pre=read_norm(tensors, "visual.ln_pre", width, shape.epsilon),
        transformer=_read_transformer(tensors, "visual.transformer", shape, activation),
        norm_post=read_norm(tensors, "visual.ln_post", width, shape.epsilon),
        # Unlike linear layers, the projections are stored as they are applied.
        projection=tensors.take("visual.proj", (width, embedding_dim)),
        image_size=size,
    )


def _read_text_tower(
    tensors: TensorReader, config: Settings, embedding_dim: int, activation: Activation
) -> TextTransformer:
    # A model built with custom_text keeps its text tower under a name of its own.
    prefix = "text." if "text.token_embedding.weight" in tensors else ""
    shape = _shape(config, config.size("heads"))
    return TextTransformer(
        token_embedding=tensors.take(f"{prefix}token_embedding.weight", (config.size("vocab_size"), shape.width)),
        positions=tensors.take(f"{prefix}positional_embedding", (config.size("context_length"), shape.width)),
        transformer=_read_transformer(tensors, f"{prefix}transformer", shape, activation),
        norm_final=read_norm(tensors, f"{prefix}ln_final", shape.width, shape.epsilon),
        projection=tensors.take(f"{prefix}text_projection", (shape.width, embedding_dim)),
    )


def _shape(config: Settings, heads: int) -> _Shape:
    width, hidden = config.size("width"), int(config.size("width") * config.number("mlp_ratio"))
    if heads < 1 or width % heads:
        raise CheckpointError(f"{config.where}: width {width} is no multiple of heads {heads}.")
    if hidden < 1:
        raise CheckpointError(f"{config.where}: mlp_ratio {config.number('mlp_ratio')} leaves no hidden width.")
    return _Shape(width, heads, hidden, config.size("layers"), _epsilon(config))


def _epsilon(config: Settings) -> float:
    given = config.get("norm_kwargs")
    if given is None or given == {}:
        return _NORM_EPSILON
    if not isinstance(given, dict) or set(given) != {"eps"}:
        raise UnsupportedError(f"{config.where}: norm_kwargs = {given!r} is not supported.")
    return Settings(given, f"{config.where}: norm_kwargs").number("eps")


def _read_transformer(tensors: TensorReader, prefix: str, shape: _Shape, activation: Activation) -> Transformer:
    blocks = tuple(_read_block(tensors, f"{prefix}.resblocks.{index}", shape) for index in range(shape.layers))
    return Transformer(blocks=blocks, heads=shape.heads, activation=activation)


def _read_block(tensors: TensorReader, prefix: str, shape: _Shape) -> TransformerBlock:
    width, hidden, epsilon = shape.width, shape.hidden, shape.epsilon
    return TransformerBlock(
        norm1=read_norm(tensors, f"{prefix}.ln_1", width, epsilon),
        qkv=Linear(
            weight=tensors.take(f"{prefix}.attn.in_proj_weight", (3 * width, width)).T,
            bias=tensors.take(f"{prefix}.attn.in_proj_bias", (3 * width,)),
        ),
        attention_output=read_linear(tensors, f"{prefix}.attn.out_proj", width, width),
        norm2=read_norm(tensors, f"{prefix}.ln_2", width, epsilon),
        mlp_up=read_linear(tensors, f"{prefix}.mlp.c_fc", width, hidden),
        mlp_down=read_linear(tensors, f"{prefix}.mlp.c_proj", hidden, width),
    )


def _read_preprocessing(document: Settings, image_size: int) -> ImagePreprocessing:
    given = document.get("preprocess_cfg")
    # open_clip takes null for absent.
    present = {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else {}
    config = Settings(present, "open_clip_config.json: preprocess_cfg", _PREPROCESS_DEFAULTS)
    config.refuse_unless("mode", "RGB")
    config.refuse_unless("interpolation", "bicubic", "bilinear", "random")
    config.refuse_unless("resize_mode", "shortest", "squash")
    config.refuse_unless("size", image_size, [image_size, image_size], [3, image_size, image_size])
    resize_mode: Literal["shortest", "squash"] = config.get("resize_mode")
    return ImagePreprocessing(
        size=image_size,
        resize_mode=resize_mode,
        # Random is for training; open_clip evaluates such models with bicubic.
        interpolation="bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        crop="round" if resize_mode == "shortest" else "none",
        mean=config.rgb("mean"),
        std=config.deviations("std"),
    )
