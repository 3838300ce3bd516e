"""Writes a CLIP ViT-B/32 checkpoint with random weights in Hugging Face layout: true shapes without a download.

Speed does not depend on what weights say. Knows nothing of what is measured on it.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

_VOCABULARY, _CONTEXT, _TEXT_WIDTH, _IMAGE_WIDTH, _LAYERS, _PROJECTION = 49_408, 77, 512, 768, 12, 512
_IMAGE_SIZE, _PATCH = 224, 32
_START, _END = "<|startoftext|>", "<|endoftext|>"


def write_checkpoint(folder: Path) -> Path:
    """Write config, weights, tokenizer and preprocessing into `folder` once, and return it."""
    if not (folder / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _tokenizer().save(str(folder / "tokenizer.json"))
        (folder / "config.json").write_text(json.dumps(_config()))
        (folder / "preprocessor_config.json").write_text(json.dumps(_preprocessing()))
        save_file(_weights(), folder / "model.safetensors")
    return folder


def _config() -> dict[str, object]:
    common = {"num_hidden_layers": _LAYERS, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    text = {
        **common,
        "hidden_size": _TEXT_WIDTH,
        "intermediate_size": 4 * _TEXT_WIDTH,
        "num_attention_heads": 8,
        "vocab_size": _VOCABULARY,
        "max_position_embeddings": _CONTEXT,
        "bos_token_id": _VOCABULARY - 2,
        "eos_token_id": _VOCABULARY - 1,
        "pad_token_id": 1,
        "projection_dim": _PROJECTION,
        "model_type": "clip_text_model",
    }
    vision = {
        **common,
        "hidden_size": _IMAGE_WIDTH,
        "intermediate_size": 4 * _IMAGE_WIDTH,
        "num_attention_heads": 12,
        "image_size": _IMAGE_SIZE,
        "patch_size": _PATCH,
        "projection_dim": _PROJECTION,
        "model_type": "clip_vision_model",
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": _PROJECTION,
        "logit_scale_init_value": 2.6592,
        "text_config": text,
        "vision_config": vision,
    }


def _preprocessing() -> dict[str, object]:
    return {
        "do_resize": True,
        "size": {"shortest_edge": _IMAGE_SIZE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
        "image_processor_type": "CLIPImageProcessor",
    }


def _weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)

    def normal(*shape: int) -> np.ndarray:
        # Larger than an initialization, so that different inputs get clearly different embeddings.
        scale = 0.05 if len(shape) == 1 else 1.5 * shape[-1] ** -0.5
        return (random.standard_normal(shape) * scale).astype(np.float32)

    tensors = {
        "logit_scale": np.array(4.6052, np.float32),
        "text_projection.weight": normal(_PROJECTION, _TEXT_WIDTH),
        "visual_projection.weight": normal(_PROJECTION, _IMAGE_WIDTH),
        "text_model.embeddings.token_embedding.weight": normal(_VOCABULARY, _TEXT_WIDTH),
        "text_model.embeddings.position_embedding.weight": normal(_CONTEXT, _TEXT_WIDTH),
        "vision_model.embeddings.class_embedding": normal(_IMAGE_WIDTH),
        "vision_model.embeddings.patch_embedding.weight": normal(_IMAGE_WIDTH, 3, _PATCH, _PATCH) * 0.1,
        "vision_model.embeddings.position_embedding.weight": normal((_IMAGE_SIZE // _PATCH) ** 2 + 1, _IMAGE_WIDTH),
    }
    towers = [
        ("text_model", _TEXT_WIDTH, ["final_layer_norm"]),
        ("vision_model", _IMAGE_WIDTH, ["pre_layrnorm", "post_layernorm"]),
    ]
    for tower, width, norms in towers:
        for layer in range(_LAYERS):
            prefix = f"{tower}.encoder.layers.{layer}"
            shapes = {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
            shapes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
            for name, shape in shapes.items():
                tensors[f"{prefix}.{name}.weight"] = normal(*shape)
                tensors[f"{prefix}.{name}.bias"] = normal(shape[0])
            norms_here = (f"{prefix}.layer_norm1", f"{prefix}.layer_norm2")
            tensors |= {f"{name}.weight": 1 + normal(width) for name in norms_here}
            tensors |= {f"{name}.bias": normal(width) for name in norms_here}
        tensors |= {f"{tower}.{name}.weight": 1 + normal(width) for name in norms}
        tensors |= {f"{tower}.{name}.bias": normal(width) for name in norms}
    return tensors


def _tokenizer() -> Tokenizer:
    """Return a tokenizer in CLIP's form whose words are single bytes; unused ids fill its vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += [f"<unused_{number}>" for number in range(_VOCABULARY - 2 - len(words))]
    vocabulary = {word: number for number, word in enumerate([*words, _START, _END])}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [], unk_token=_END, end_of_word_suffix="</w>", continuing_subword_prefix="")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        (_END, _VOCABULARY - 1), (_START, _VOCABULARY - 2), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.add_special_tokens([_START, _END])
    return tokenizer
