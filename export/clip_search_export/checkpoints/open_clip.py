"""Reads CLIP with a modified ResNet in OpenCLIP layout.

    open_clip_config.json         model_cfg (embed_dim, vision_cfg, text_cfg), preprocess_cfg
    open_clip_model.safetensors   or model.safetensors; tensors named as in open_clip and openai/CLIP
    tokenizer.json                or vocab.json and merges.txt

Settings that are absent take open_clip's defaults (CLIPVisionCfg, CLIPTextCfg, PreprocessCfg).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.checkpoints.settings import Settings
from clip_search_export.checkpoints.tokenizers import read_clip_tokenizer
from clip_search_export.errors import CheckpointError, UnsupportedError
from clip_search_export.tensors import TensorReader, read_json
from clip_search_export.weights import (
    Activation,
    AttentionPool,
    BatchNorm,
    Bottleneck,
    Convolution,
    LayerNorm,
    Linear,
    ModifiedResNet,
    TextTransformer,
    Transformer,
    TransformerBlock,
)
from clip_search_server.bundle import ImagePreprocessing

__all__ = ["CONFIG_FILES", "WEIGHT_FILES", "read"]

CONFIG_FILES = ("open_clip_config.json",)
WEIGHT_FILES = ("open_clip_model.safetensors", "model.safetensors")

_STAGES = 4
_EXPANSION = 4
_NORM_EPSILON = 1e-5  # PyTorch's default of LayerNorm and BatchNorm2d, which open_clip leaves alone.
_DOWNSCALING = 32
_VISION_DEFAULTS: Mapping[str, Any] = {"width": 768, "head_width": 64, "image_size": 224}
_TEXT_DEFAULTS: Mapping[str, Any] = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 512,
    "heads": 8,
    "layers": 12,
    "mlp_ratio": 4.0,
}
_PREPROCESS_DEFAULTS: Mapping[str, Any] = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
_TEXT_SWITCHES = (
    "hf_model_name",
    "embed_cls",
    "no_causal_mask",
    "final_ln_after_pool",
    "proj_bias",
    "ls_init_value",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
    "act_kwargs",
    "norm_kwargs",
)
"""Variations of the text tower that are not authored; each is off when absent, null or false."""


def read(folder: Path) -> Checkpoint:
    """Read the checkpoint in `folder`.

    Raises:
        UnsupportedError: the towers are others than a modified ResNet and CLIP's own text transformer.
        CheckpointError: a file or tensor is missing, damaged or contradicts the configuration.
    """
    document = Settings(read_json(folder / "open_clip_config.json"), "open_clip_config.json")
    model = document.nested("model_cfg")
    _refuse_other_towers(model)
    tensors = TensorReader.open(folder, WEIGHT_FILES)
    tokenizer = read_clip_tokenizer(folder)
    text_config = model.nested("text_cfg", _TEXT_DEFAULTS)
    tokenizer.check_fits(text_config.size("vocab_size"))
    vision_config = model.nested("vision_cfg", _VISION_DEFAULTS)
    activation: Activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    return Checkpoint(
        architecture="CLIP ModifiedResNet (OpenCLIP)",
        image=_read_image_tower(tensors, vision_config, model.size("embed_dim")),
        text=_read_text_tower(tensors, text_config, model.size("embed_dim"), activation),
        logit_scale=math.exp(float(tensors.take("logit_scale", tensors.shape("logit_scale")).reshape(-1)[0])),
        preprocessing=_read_preprocessing(document, vision_config.size("image_size")),
        tokenizer_json=tokenizer.to_json(),
        text_cleaning="basic",
        text_pooling="highest_id",
        end_token_id=tokenizer.end_token_id,
        pad_token_id=0,
    )


def _refuse_other_towers(model: Settings) -> None:
    vision = model.nested("vision_cfg")
    if vision.get("timm_model_name"):
        raise UnsupportedError(f"the timm vision tower {vision.get('timm_model_name')!r} is not supported;")
    if not isinstance(vision.get("layers"), list):
        raise UnsupportedError("the vision transformer in OpenCLIP layout is not supported;")
    text = model.nested("text_cfg")
    for switch in _TEXT_SWITCHES:
        text.refuse_unless(switch, None, False)
    text.refuse_unless("pool_type", "argmax")
    text.refuse_unless("text_arch", "clip")
    text.refuse_unless("proj_type", "linear")


def _read_image_tower(tensors: TensorReader, config: Settings, embedding_dim: int) -> ModifiedResNet:
    layers, width, size = config.get("layers"), config.size("width"), config.size("image_size")
    if len(layers) != _STAGES or not all(isinstance(count, int) and 1 <= count <= 1000 for count in layers):  # noqa: PLR2004
        raise CheckpointError(f"open_clip_config.json: vision_cfg: layers is {layers!r}; four counts were expected.")
    if size % _DOWNSCALING:
        raise UnsupportedError(f"open_clip_config.json: image_size {size} is no multiple of {_DOWNSCALING};")
    stem = (
        _read_convolution(tensors, "visual.conv1", "visual.bn1", (width // 2, 3, 3, 3)),
        _read_convolution(tensors, "visual.conv2", "visual.bn2", (width // 2, width // 2, 3, 3)),
        _read_convolution(tensors, "visual.conv3", "visual.bn3", (width, width // 2, 3, 3)),
    )
    stages = []
    channels = width
    for index, count in enumerate(layers):
        planes = width * 2**index
        blocks = []
        for block in range(count):
            stride = 2 if index > 0 and block == 0 else 1
            blocks.append(_read_bottleneck(tensors, f"visual.layer{index + 1}.{block}", channels, planes, stride))
            channels = planes * _EXPANSION
        stages.append(tuple(blocks))
    # open_clip counts the heads of the pool so (model.py, _build_vision_tower).
    heads = width * 32 // config.size("head_width")
    if heads < 1 or channels % heads:
        raise CheckpointError(f"open_clip_config.json: {heads} heads do not divide {channels} channels.")
    places = (size // _DOWNSCALING) ** 2
    pool = _read_attention_pool(tensors, channels, places, embedding_dim, heads)
    return ModifiedResNet(stem=stem, stages=tuple(stages), pool=pool, image_size=size)


def _read_bottleneck(tensors: TensorReader, prefix: str, channels: int, planes: int, stride: int) -> Bottleneck:
    downsample = None
    outputs = planes * _EXPANSION
    if stride > 1 or channels != outputs:
        names = f"{prefix}.downsample.0", f"{prefix}.downsample.1"
        downsample = _read_convolution(tensors, *names, (outputs, channels, 1, 1))
    return Bottleneck(
        reduce=_read_convolution(tensors, f"{prefix}.conv1", f"{prefix}.bn1", (planes, channels, 1, 1)),
        spatial=_read_convolution(tensors, f"{prefix}.conv2", f"{prefix}.bn2", (planes, planes, 3, 3)),
        expand=_read_convolution(tensors, f"{prefix}.conv3", f"{prefix}.bn3", (outputs, planes, 1, 1)),
        downsample=downsample,
        stride=stride,
    )


def _read_convolution(tensors: TensorReader, name: str, norm: str, shape: tuple[int, ...]) -> Convolution:
    channels = (shape[0],)
    variance = tensors.take(f"{norm}.running_var", channels)
    if (variance < 0).any():
        raise CheckpointError(f"the tensor {norm}.running_var has negative values: the checkpoint is damaged.")
    return Convolution(
        weight=tensors.take(f"{name}.weight", shape),
        norm=BatchNorm(
            gain=tensors.take(f"{norm}.weight", channels),
            bias=tensors.take(f"{norm}.bias", channels),
            mean=tensors.take(f"{norm}.running_mean", channels),
            variance=variance,
            epsilon=_NORM_EPSILON,
        ),
    )


def _read_attention_pool(
    tensors: TensorReader, width: int, places: int, embedding_dim: int, heads: int
) -> AttentionPool:
    prefix = "visual.attnpool"
    return AttentionPool(
        positions=tensors.take(f"{prefix}.positional_embedding", (places + 1, width)),
        query=_read_linear(tensors, f"{prefix}.q_proj", width, width),
        key=_read_linear(tensors, f"{prefix}.k_proj", width, width),
        value=_read_linear(tensors, f"{prefix}.v_proj", width, width),
        output=_read_linear(tensors, f"{prefix}.c_proj", width, embedding_dim),
        heads=heads,
    )


def _read_text_tower(
    tensors: TensorReader, config: Settings, embedding_dim: int, activation: Activation
) -> TextTransformer:
    width, heads = config.size("width"), config.size("heads")
    if width % heads:
        raise CheckpointError(f"open_clip_config.json: text_cfg: width {width} is no multiple of heads {heads}.")
    hidden = int(width * config.number("mlp_ratio"))
    blocks = tuple(
        _read_block(tensors, f"transformer.resblocks.{index}", width, hidden) for index in range(config.size("layers"))
    )
    return TextTransformer(
        token_embedding=tensors.take("token_embedding.weight", (config.size("vocab_size"), width)),
        positions=tensors.take("positional_embedding", (config.size("context_length"), width)),
        transformer=Transformer(blocks=blocks, heads=heads, activation=activation),
        norm_final=_read_norm(tensors, "ln_final", width),
        # Unlike linear layers, this matrix is stored as it is applied.
        projection=tensors.take("text_projection", (width, embedding_dim)),
    )


def _read_block(tensors: TensorReader, prefix: str, width: int, hidden: int) -> TransformerBlock:
    return TransformerBlock(
        norm1=_read_norm(tensors, f"{prefix}.ln_1", width),
        qkv=Linear(
            weight=tensors.take(f"{prefix}.attn.in_proj_weight", (3 * width, width)).T,
            bias=tensors.take(f"{prefix}.attn.in_proj_bias", (3 * width,)),
        ),
        attention_output=_read_linear(tensors, f"{prefix}.attn.out_proj", width, width),
        norm2=_read_norm(tensors, f"{prefix}.ln_2", width),
        mlp_up=_read_linear(tensors, f"{prefix}.mlp.c_fc", width, hidden),
        mlp_down=_read_linear(tensors, f"{prefix}.mlp.c_proj", hidden, width),
    )


def _read_norm(tensors: TensorReader, prefix: str, width: int) -> LayerNorm:
    return LayerNorm(
        gain=tensors.take(f"{prefix}.weight", (width,)),
        bias=tensors.take(f"{prefix}.bias", (width,)),
        epsilon=_NORM_EPSILON,
    )


def _read_linear(tensors: TensorReader, prefix: str, inputs: int, outputs: int) -> Linear:
    return Linear(
        weight=tensors.take(f"{prefix}.weight", (outputs, inputs)).T,
        bias=tensors.take(f"{prefix}.bias", (outputs,)),
    )


def _read_preprocessing(document: Settings, image_size: int) -> ImagePreprocessing:
    given = document.get("preprocess_cfg")
    config = Settings(
        given if isinstance(given, dict) else {}, "open_clip_config.json: preprocess_cfg", _PREPROCESS_DEFAULTS
    )
    config.refuse_unless("interpolation", "bicubic", "bilinear")
    config.refuse_unless("resize_mode", "shortest", "squash")
    config.refuse_unless("size", None, image_size, [image_size, image_size], [3, image_size, image_size])
    resize_mode: Literal["shortest", "squash"] = config.get("resize_mode")
    return ImagePreprocessing(
        size=image_size,
        resize_mode=resize_mode,
        interpolation=config.get("interpolation"),
        crop="round" if resize_mode == "shortest" else "none",
        mean=config.rgb("mean"),
        std=config.rgb("std"),
    )
