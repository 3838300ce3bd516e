"""Writes small SigLIP checkpoints in Hugging Face layout with random weights, and SentencePiece models, for tests.

The models are written byte by byte, as `clip_search_export.checkpoints.sentencepiece` documents the format, so that
tests need no SentencePiece; `tests/parity` compares with models that SentencePiece trained.
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save_file

from tests.unit.export.random_checkpoints import (
    SENTENCES,
    SMALL_TOWERS,
    Draw,
    Tensors,
    add_hf_block,
    add_linear,
    add_norm,
    hf_transformer,
)

__all__ = [
    "siglip_tensors",
    "write_byte_pair_model",
    "write_sentencepiece",
    "write_siglip",
    "write_unigram_model",
]

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_VOCAB_SIZE = 420

_Piece = tuple[str, float, int]


def write_siglip(folder: Path, *, seed: int = 0, version: Literal[1, 2] = 1, **overrides: Any) -> Path:
    """Write a checkpoint with SigLIP's tokenizer or SigLIP 2's; `overrides` replace the dimensions below."""
    dims = _dimensions(overrides)
    folder.mkdir(parents=True, exist_ok=True)
    if version == 1:
        write_unigram_model(folder / "spiece.model")
        tokenizer = {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "eos_token": "</s>"}
    else:
        write_byte_pair_model(folder / "tokenizer.model")
        tokenizer = {"tokenizer_class": "GemmaTokenizer", "pad_token": "<pad>", "eos_token": "<eos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(_config(dims)))
    (folder / "preprocessor_config.json").write_text(json.dumps(_preprocessing(dims)))
    save_file(siglip_tensors(dims, seed), folder / "model.safetensors")
    return folder


def write_unigram_model(path: Path) -> None:
    """Write a model of T5's kind: a dummy prefix, extra white space removed, no bytes."""
    words = list(dict.fromkeys(" ".join(SENTENCES).split()))
    letters = sorted(set("".join(words)) | set("abcdefghijklmnopqrstuvwxyz0123456789"))
    pieces: list[_Piece] = [("<pad>", 0, _CONTROL), ("</s>", 0, _CONTROL), ("<unk>", 0, _UNKNOWN), (_SPACE, -4, 1)]
    pieces += [(f"{_SPACE}{word}", -5 - 0.01 * at, _NORMAL) for at, word in enumerate(words)]
    pieces += [(word[:3], -6.5 - 0.01 * at, _NORMAL) for at, word in enumerate(words) if word[:3] not in letters]
    pieces += [(letter, -7 - 0.01 * at, _NORMAL) for at, letter in enumerate(letters)]
    write_sentencepiece(path, list({piece[0]: piece for piece in pieces}.values()), trainer={3: 1}, normalizer={})


def write_byte_pair_model(path: Path) -> None:
    """Write a model of Gemma's kind: no prefix, white space kept, bytes for what is not known."""
    words = [f"{_SPACE}{word}" for word in dict.fromkeys(" ".join(SENTENCES).split())]
    special = [("<pad>", _CONTROL), ("<eos>", _CONTROL), ("<bos>", _CONTROL), ("<unk>", _UNKNOWN)]
    pieces: list[_Piece] = [(text, 0.0, kind) for text, kind in special]
    pieces += [(f"<0x{byte:02X}>", 0.0, _BYTE) for byte in range(256)]
    merged = [word[:end] for word in words for end in range(2, len(word) + 1)]
    for at, text in enumerate(dict.fromkeys(merged)):
        pieces.append((text, -float(at), _NORMAL))
    letters = sorted(set("".join(words)))
    pieces = [*pieces[: _VOCAB_SIZE - len(letters)], *((letter, -1000.0, _NORMAL) for letter in letters)]
    write_sentencepiece(path, pieces, trainer={3: 2, 35: 1}, normalizer={3: 0, 4: 0})


def write_sentencepiece(
    path: Path, pieces: Sequence[_Piece], *, trainer: dict[int, int], normalizer: dict[int, int | bytes]
) -> None:
    """Write a model file of these pieces and these numbered fields."""
    message = b"".join(
        _bytes_field(1, _bytes_field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _integer_field(3, kind))
        for text, score, kind in pieces
    )
    message += _bytes_field(2, b"".join(_integer_field(number, value) for number, value in trainer.items()))
    fields = (
        _bytes_field(number, value) if isinstance(value, bytes) else _integer_field(number, value)
        for number, value in normalizer.items()
    )
    path.write_bytes(message + _bytes_field(3, b"".join(fields)))


def siglip_tensors(dims: dict[str, Any], seed: int) -> Tensors:
    """Return random weights under transformers' names."""
    draw = Draw(seed)
    width, patch, text_width = dims["vision_width"], dims["patch_size"], dims["text_width"]
    places = (dims["image_size"] // patch) ** 2
    tensors: Tensors = {
        "logit_scale": np.array([4.7], dtype=np.float32),
        "logit_bias": np.array([-12.9], dtype=np.float32),
        "vision_model.embeddings.patch_embedding.weight": draw.normal(1 / patch, width, 3, patch, patch),
        "vision_model.embeddings.patch_embedding.bias": draw.normal(0.5, width),
        "vision_model.embeddings.position_embedding.weight": draw.normal(0.3, places, width),
        "vision_model.head.probe": draw.normal(1.0, 1, 1, width),
        "vision_model.head.attention.in_proj_weight": draw.matrix(3 * width, width),
        "vision_model.head.attention.in_proj_bias": draw.normal(0.2, 3 * width),
        "text_model.embeddings.token_embedding.weight": draw.normal(1.0, dims["vocab_size"], text_width),
        "text_model.embeddings.position_embedding.weight": draw.normal(0.3, dims["context_length"], text_width),
    }
    add_linear(tensors, draw, "vision_model.head.attention.out_proj", width, width)
    add_norm(tensors, draw, "vision_model.head.layernorm", width)
    add_linear(tensors, draw, "vision_model.head.mlp.fc1", dims["vision_hidden"], width)
    add_linear(tensors, draw, "vision_model.head.mlp.fc2", width, dims["vision_hidden"])
    add_norm(tensors, draw, "vision_model.post_layernorm", width)
    add_norm(tensors, draw, "text_model.final_layer_norm", text_width)
    add_linear(tensors, draw, "text_model.head", width, text_width)
    for tower in ("vision", "text"):
        for layer in range(dims[f"{tower}_layers"]):
            prefix = f"{tower}_model.encoder.layers.{layer}"
            add_hf_block(tensors, draw, prefix, dims[f"{tower}_width"], dims[f"{tower}_hidden"])
    return tensors


def _dimensions(overrides: dict[str, Any]) -> dict[str, Any]:
    return {
        **SMALL_TOWERS,
        "context_length": 16,
        "vocab_size": _VOCAB_SIZE,
        "activation": "gelu_pytorch_tanh",
        "resample": 3,
        **overrides,
    }


def _config(dims: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "siglip",
        "architectures": ["SiglipModel"],
        "text_config": {
            "model_type": "siglip_text_model",
            "vocab_size": dims["vocab_size"],
            **hf_transformer(dims, "text"),
            "max_position_embeddings": dims["context_length"],
            "projection_size": dims["vision_width"],
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            **hf_transformer(dims, "vision"),
            "image_size": dims["image_size"],
            "patch_size": dims["patch_size"],
        },
    }


def _preprocessing(dims: dict[str, Any]) -> dict[str, Any]:
    return {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": dims["image_size"], "width": dims["image_size"]},
        "resample": dims["resample"],
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def _integer_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _bytes_field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
