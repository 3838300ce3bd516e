"""Writes small checkpoints of the true layouts with random weights, for tests; needs no framework.

The weights are larger than those a training starts from: embeddings of freshly initialized towers are nearly parallel,
and a comparison on them would pass wrong graphs. Values come from NumPy's frozen legacy generator, so that a seed means
the same weights on every machine and version.
"""

import json
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

__all__ = [
    "SENTENCES",
    "SMALL_TOWERS",
    "VIT",
    "VIT_B_32",
    "Draw",
    "Tensors",
    "add_hf_block",
    "add_linear",
    "add_norm",
    "hf_transformer",
    "make_byte_pairs",
    "open_clip_config",
    "open_clip_tensors",
    "write_hf_clip",
    "write_open_clip",
    "write_tokenizer",
]

Tensors = dict[str, npt.NDArray[np.float32]]

SENTENCES = (
    "a photo of a red bicycle on the old harbour wall",
    "seven gulls argue about one chip under grey winter clouds",
    "somebody plays accordion badly near the lighthouse where fishermen mend blue nets",
)
SMALL_TOWERS: Mapping[str, int] = {
    "image_size": 32,
    "patch_size": 8,
    "vision_width": 48,
    "vision_hidden": 96,
    "vision_layers": 3,
    "vision_heads": 4,
    "text_width": 32,
    "text_hidden": 64,
    "text_layers": 3,
    "text_heads": 4,
}
"""Sizes of checkpoints in Hugging Face layout, whatever the family."""
VIT: dict[str, Any] = {"layers": 3, "patch_size": 8, "image_size": 32, "vision_width": 48}
"""Overrides that make a vision transformer of OpenCLIP's layout."""

VIT_B_32: dict[str, Any] = {
    "embedding_dim": 512,
    "image_size": 224,
    "patch_size": 32,
    "vision_width": 768,
    "vision_hidden": 3072,
    "vision_layers": 12,
    "vision_heads": 12,
    "context_length": 77,
    "vocab_size": 49408,
    "text_width": 512,
    "text_hidden": 2048,
    "text_layers": 12,
    "text_heads": 8,
}
"""The true sizes of CLIP ViT-B/32 in Hugging Face layout."""

_SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")


def write_hf_clip(folder: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Write a CLIP ViT in Hugging Face layout; `overrides` replace the dimensions below, and `activation`."""
    dims = _hf_dimensions(overrides)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(folder / "tokenizer.json", vocab_size=dims["vocab_size"])
    config = _hf_config(dims, vocabulary)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(_hf_preprocessing(dims["image_size"])))
    save_file(_hf_tensors(dims, seed), folder / "model.safetensors")
    return folder


def write_open_clip(folder: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Write a CLIP ModifiedResNet in OpenCLIP layout, in FP16; `overrides` replace the dimensions below.

    With one number of layers (see `VIT`) it is a vision transformer.
    """
    config = open_clip_config(**overrides)
    folder.mkdir(parents=True, exist_ok=True)
    model = config["model_cfg"]
    write_tokenizer(folder / "tokenizer.json", vocab_size=model["text_cfg"]["vocab_size"])
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    tensors = open_clip_tensors(model, seed)
    save_file(
        {name: tensor.astype(np.float16) for name, tensor in tensors.items()}, folder / "open_clip_model.safetensors"
    )
    return folder


def write_tokenizer(path: Path, *, vocab_size: int) -> Mapping[str, int]:
    """Write a byte-pair tokenizer that works as CLIP's does, and return its vocabulary."""
    vocabulary, merges = make_byte_pairs(vocab_size)
    start, end = _SPECIAL_TOKENS
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", unk_token=end))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(token, vocabulary[token]) for token in _SPECIAL_TOKENS]
    )
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    tokenizer.save(str(path))
    return vocabulary


def make_byte_pairs(vocab_size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a vocabulary in CLIP's order (bytes, bytes that end a word, merges, special tokens) and its merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*alphabet, *(f"{byte}</w>" for byte in alphabet)])
    merges: list[tuple[str, str]] = []
    for word in " ".join(SENTENCES).split():
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        for left, right in zip(accumulate(pieces), pieces[1:], strict=False):
            if left + right not in tokens and len(tokens) < vocab_size - len(_SPECIAL_TOKENS):
                tokens[left + right] = None
                merges.append((left, right))
    return {token: index for index, token in enumerate([*tokens, *_SPECIAL_TOKENS])}, merges


def open_clip_config(**overrides: Any) -> dict[str, Any]:
    """Return an `open_clip_config.json` of a small model."""
    dims = {
        "embed_dim": 24,
        "image_size": 64,
        "layers": [1, 2, 1, 1],
        "vision_width": 8,
        "head_width": 16,
        "context_length": 16,
        "vocab_size": 640,
        "text_width": 32,
        "heads": 4,
        "text_layers": 2,
        "quick_gelu": False,
        **overrides,
    }
    return {
        "model_cfg": {
            "embed_dim": dims["embed_dim"],
            "quick_gelu": dims["quick_gelu"],
            "vision_cfg": {
                "image_size": dims["image_size"],
                "layers": dims["layers"],
                "width": dims["vision_width"],
                "head_width": dims["head_width"],
                **{key: dims[key] for key in ("patch_size", "mlp_ratio") if key in dims},
            },
            "text_cfg": {
                "context_length": dims["context_length"],
                "vocab_size": dims["vocab_size"],
                "width": dims["text_width"],
                "heads": dims["heads"],
                "layers": dims["text_layers"],
            },
        },
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def open_clip_tensors(model: Mapping[str, Any], seed: int) -> Tensors:
    """Return random weights under open_clip's names, with batch statistics that are not those of a fresh model."""
    draw = Draw(seed)
    vision, text, dim = model["vision_cfg"], model["text_cfg"], model["embed_dim"]
    tensors: Tensors = {"logit_scale": np.array(np.log(1 / 0.07), dtype=np.float32)}
    (_add_resnet if isinstance(vision["layers"], list) else _add_open_clip_vit)(tensors, draw, vision, dim)
    width = text["width"]
    tensors["token_embedding.weight"] = draw.normal(1.0, text["vocab_size"], width)
    tensors["positional_embedding"] = draw.normal(0.3, text["context_length"], width)
    for index in range(text["layers"]):
        _add_open_clip_block(tensors, draw, f"transformer.resblocks.{index}", width, 4 * width)
    add_norm(tensors, draw, "ln_final", width)
    tensors["text_projection"] = draw.matrix(width, dim)
    return tensors


class Draw:
    """Draws weights from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.RandomState(seed)

    def normal(self, scale: float, *shape: int) -> npt.NDArray[np.float32]:
        """Return values around zero."""
        return (scale * self._random.standard_normal(shape)).astype(np.float32)

    def around(self, centre: float, scale: float, *shape: int) -> npt.NDArray[np.float32]:
        """Return values around `centre`."""
        return (centre + self.normal(scale, *shape)).astype(np.float32)

    def matrix(self, outputs: int, inputs: int) -> npt.NDArray[np.float32]:
        """Return a matrix that keeps the magnitude of what it is applied to, and adds some."""
        return self.normal(1.4 / np.sqrt(inputs), outputs, inputs)

    def uniform(self, low: float, high: float, *shape: int) -> npt.NDArray[np.float32]:
        """Return values from `low` to `high`."""
        return self._random.uniform(low, high, shape).astype(np.float32)


def add_norm(tensors: Tensors, draw: Draw, prefix: str, width: int) -> None:
    """Add a normalization that is not that of a fresh model."""
    tensors[f"{prefix}.weight"] = draw.around(1.0, 0.2, width)
    tensors[f"{prefix}.bias"] = draw.normal(0.2, width)


def add_linear(tensors: Tensors, draw: Draw, prefix: str, outputs: int, inputs: int) -> None:
    """Add a linear layer with a bias."""
    tensors[f"{prefix}.weight"] = draw.matrix(outputs, inputs)
    tensors[f"{prefix}.bias"] = draw.normal(0.2, outputs)


def _add_open_clip_block(tensors: Tensors, draw: Draw, prefix: str, width: int, hidden: int) -> None:
    add_norm(tensors, draw, f"{prefix}.ln_1", width)
    tensors[f"{prefix}.attn.in_proj_weight"] = draw.matrix(3 * width, width)
    tensors[f"{prefix}.attn.in_proj_bias"] = draw.normal(0.2, 3 * width)
    add_linear(tensors, draw, f"{prefix}.attn.out_proj", width, width)
    add_norm(tensors, draw, f"{prefix}.ln_2", width)
    add_linear(tensors, draw, f"{prefix}.mlp.c_fc", hidden, width)
    add_linear(tensors, draw, f"{prefix}.mlp.c_proj", width, hidden)


def _add_open_clip_vit(tensors: Tensors, draw: Draw, vision: Mapping[str, Any], dim: int) -> None:
    width, patch = vision["width"], vision["patch_size"]
    tensors["visual.conv1.weight"] = draw.normal(1 / patch, width, 3, patch, patch)
    tensors["visual.class_embedding"] = draw.normal(0.5, width)
    tensors["visual.positional_embedding"] = draw.normal(0.3, (vision["image_size"] // patch) ** 2 + 1, width)
    for index in range(vision["layers"]):
        hidden = int(width * vision.get("mlp_ratio", 4.0))
        _add_open_clip_block(tensors, draw, f"visual.transformer.resblocks.{index}", width, hidden)
    add_norm(tensors, draw, "visual.ln_pre", width)
    add_norm(tensors, draw, "visual.ln_post", width)
    tensors["visual.proj"] = draw.matrix(width, dim)


def _add_resnet(tensors: Tensors, draw: Draw, vision: Mapping[str, Any], dim: int) -> None:
    width = vision["width"]

    def convolution(name: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        scale = 1.4 / np.sqrt(inputs * kernel * kernel)
        tensors[f"visual.{name}.weight"] = draw.normal(scale, outputs, inputs, kernel, kernel)
        tensors[f"visual.{norm}.weight"] = draw.around(1.0, 0.2, outputs)
        tensors[f"visual.{norm}.bias"] = draw.normal(0.3, outputs)
        tensors[f"visual.{norm}.running_mean"] = draw.normal(0.3, outputs)
        tensors[f"visual.{norm}.running_var"] = draw.uniform(0.3, 1.5, outputs)

    convolution("conv1", "bn1", width // 2, 3, 3)
    convolution("conv2", "bn2", width // 2, width // 2, 3)
    convolution("conv3", "bn3", width, width // 2, 3)
    channels = width
    for stage, blocks in enumerate(vision["layers"]):
        planes = width * 2**stage
        for block in range(blocks):
            prefix = f"layer{stage + 1}.{block}"
            convolution(f"{prefix}.conv1", f"{prefix}.bn1", planes, channels, 1)
            convolution(f"{prefix}.conv2", f"{prefix}.bn2", planes, planes, 3)
            convolution(f"{prefix}.conv3", f"{prefix}.bn3", 4 * planes, planes, 1)
            if block == 0:
                convolution(f"{prefix}.downsample.0", f"{prefix}.downsample.1", 4 * planes, channels, 1)
            channels = 4 * planes
    places = (vision["image_size"] // 32) ** 2
    tensors["visual.attnpool.positional_embedding"] = draw.normal(0.5, places + 1, channels)
    for part in ("q", "k", "v"):
        add_linear(tensors, draw, f"visual.attnpool.{part}_proj", channels, channels)
    for part in ("q", "k"):
        # Features grow with depth; a softmax that picks one place alone would turn rounding into another picture.
        tensors[f"visual.attnpool.{part}_proj.weight"] *= np.float32(0.2)
    add_linear(tensors, draw, "visual.attnpool.c_proj", dim, channels)


def _hf_dimensions(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "embedding_dim": 24,
        **SMALL_TOWERS,
        "context_length": 20,
        "vocab_size": 640,
        "activation": "quick_gelu",
        "eos_token_id": None,
        **overrides,
    }


def hf_transformer(dims: Mapping[str, Any], tower: str) -> dict[str, Any]:
    """Return what the section of one tower, ``text`` or ``vision``, says of its transformer in a `config.json`."""
    return {
        "hidden_size": dims[f"{tower}_width"],
        "intermediate_size": dims[f"{tower}_hidden"],
        "num_hidden_layers": dims[f"{tower}_layers"],
        "num_attention_heads": dims[f"{tower}_heads"],
        "hidden_act": dims["activation"],
    }


def _hf_config(dims: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, Any]:
    eos = dims["eos_token_id"]
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": dims["embedding_dim"],
        "text_config": {
            "vocab_size": dims["vocab_size"],
            **hf_transformer(dims, "text"),
            "max_position_embeddings": dims["context_length"],
            "bos_token_id": vocabulary[_SPECIAL_TOKENS[0]],
            "eos_token_id": vocabulary[_SPECIAL_TOKENS[1]] if eos is None else eos,
            "projection_dim": dims["embedding_dim"],
        },
        "vision_config": {
            **hf_transformer(dims, "vision"),
            "image_size": dims["image_size"],
            "patch_size": dims["patch_size"],
            "projection_dim": dims["embedding_dim"],
        },
    }


def _hf_preprocessing(size: int) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


def _hf_tensors(dims: Mapping[str, Any], seed: int) -> Tensors:
    draw = Draw(seed)
    width, patch, dim = dims["vision_width"], dims["patch_size"], dims["embedding_dim"]
    places = (dims["image_size"] // patch) ** 2
    tensors: Tensors = {
        "logit_scale": np.array(np.log(1 / 0.07), dtype=np.float32),
        "vision_model.embeddings.class_embedding": draw.normal(0.5, width),
        "vision_model.embeddings.patch_embedding.weight": draw.normal(1 / patch, width, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": draw.normal(0.3, places + 1, width),
        "visual_projection.weight": draw.matrix(dim, width),
        "text_model.embeddings.token_embedding.weight": draw.normal(1.0, dims["vocab_size"], dims["text_width"]),
        "text_model.embeddings.position_embedding.weight": draw.normal(0.3, dims["context_length"], dims["text_width"]),
        "text_projection.weight": draw.matrix(dim, dims["text_width"]),
    }
    add_norm(tensors, draw, "vision_model.pre_layrnorm", width)
    add_norm(tensors, draw, "vision_model.post_layernorm", width)
    add_norm(tensors, draw, "text_model.final_layer_norm", dims["text_width"])
    for tower in ("vision", "text"):
        for layer in range(dims[f"{tower}_layers"]):
            prefix = f"{tower}_model.encoder.layers.{layer}"
            add_hf_block(tensors, draw, prefix, dims[f"{tower}_width"], dims[f"{tower}_hidden"])
    return tensors


def add_hf_block(tensors: Tensors, draw: Draw, prefix: str, width: int, hidden: int) -> None:
    """Add a transformer block under transformers' names, which CLIP and SigLIP share."""
    add_norm(tensors, draw, f"{prefix}.layer_norm1", width)
    add_norm(tensors, draw, f"{prefix}.layer_norm2", width)
    for part in ("q", "k", "v"):
        add_linear(tensors, draw, f"{prefix}.self_attn.{part}_proj", width, width)
    add_linear(tensors, draw, f"{prefix}.self_attn.out_proj", width, width)
    add_linear(tensors, draw, f"{prefix}.mlp.fc1", hidden, width)
    add_linear(tensors, draw, f"{prefix}.mlp.fc2", width, hidden)
