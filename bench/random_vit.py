"""Writes CLIP ViT checkpoints with random weights in Hugging Face layout: true shapes without a download.

Speed does not depend on what weights say. Knows nothing of what is measured on it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

__all__ = ["CONTEXT", "MEAN", "SHAPES", "STD", "VitShape", "write_checkpoint"]

CONTEXT = 77
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_VOCABULARY = 49_408
_START, _END = "<|startoftext|>", "<|endoftext|>"
_HEAD_WIDTH = 64


@dataclass(frozen=True, slots=True)
class VitShape:
    """Sizes of both towers."""

    patch: int
    width: int
    layers: int
    text_width: int
    layers_text: int = 12
    image_size: int = 224

    @property
    def projection(self) -> int:
        """Length of an embedding: in the released models, that of the text tower's width."""
        return self.text_width

    @property
    def end_id(self) -> int:
        """The end token, whose output is pooled; the start token is the one before."""
        return _VOCABULARY - 1


SHAPES = {
    "vit-b-32": VitShape(patch=32, width=768, layers=12, text_width=512),
    "vit-l-14": VitShape(patch=14, width=1024, layers=24, text_width=768),
}


def write_checkpoint(folder: Path, shape: VitShape = SHAPES["vit-b-32"]) -> Path:
    """Write config, weights, tokenizer and preprocessing into `folder` once, and return it."""
    if not (folder / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _tokenizer().save(str(folder / "tokenizer.json"))
        (folder / "config.json").write_text(json.dumps(_config(shape)))
        (folder / "preprocessor_config.json").write_text(json.dumps(_preprocessing(shape)))
        save_file(_weights(shape), folder / "model.safetensors")
    return folder


def _config(shape: VitShape) -> dict[str, object]:
    common = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    text = {
        **common,
        "num_hidden_layers": shape.layers_text,
        "hidden_size": shape.text_width,
        "intermediate_size": 4 * shape.text_width,
        "num_attention_heads": shape.text_width // _HEAD_WIDTH,
        "vocab_size": _VOCABULARY,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": _VOCABULARY - 2,
        "eos_token_id": _VOCABULARY - 1,
        "pad_token_id": 1,
        "projection_dim": shape.projection,
        "model_type": "clip_text_model",
    }
    vision = {
        **common,
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "intermediate_size": 4 * shape.width,
        "num_attention_heads": shape.width // _HEAD_WIDTH,
        "image_size": shape.image_size,
        "patch_size": shape.patch,
        "projection_dim": shape.projection,
        "model_type": "clip_vision_model",
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": shape.projection,
        "logit_scale_init_value": 2.6592,
        "text_config": text,
        "vision_config": vision,
    }


def _preprocessing(shape: VitShape) -> dict[str, object]:
    return {
        "do_resize": True,
        "size": {"shortest_edge": shape.image_size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": shape.image_size, "width": shape.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
        "do_convert_rgb": True,
        "image_processor_type": "CLIPImageProcessor",
    }


def _weights(shape: VitShape) -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)

    def normal(*sides: int) -> np.ndarray:
        # Larger than an initialization, so that different inputs get clearly different embeddings.
        scale = 0.05 if len(sides) == 1 else 1.5 * sides[-1] ** -0.5
        return random.standard_normal(sides, dtype=np.float32) * np.float32(scale)

    tensors = {
        "logit_scale": np.array(4.6052, np.float32),
        "text_projection.weight": normal(shape.projection, shape.text_width),
        "visual_projection.weight": normal(shape.projection, shape.width),
        "text_model.embeddings.token_embedding.weight": normal(_VOCABULARY, shape.text_width),
        "text_model.embeddings.position_embedding.weight": normal(CONTEXT, shape.text_width),
        "vision_model.embeddings.class_embedding": normal(shape.width),
        "vision_model.embeddings.patch_embedding.weight": normal(shape.width, 3, shape.patch, shape.patch)
        * np.float32(0.1),
        "vision_model.embeddings.position_embedding.weight": normal(
            (shape.image_size // shape.patch) ** 2 + 1, shape.width
        ),
    }
    towers = [
        ("text_model", shape.text_width, shape.layers_text, ["final_layer_norm"]),
        ("vision_model", shape.width, shape.layers, ["pre_layrnorm", "post_layernorm"]),
    ]
    for tower, width, layers, norms in towers:
        for layer in range(layers):
            prefix = f"{tower}.encoder.layers.{layer}"
            linear = {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
            linear |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
            for name, sides in linear.items():
                tensors[f"{prefix}.{name}.weight"] = normal(*sides)
                tensors[f"{prefix}.{name}.bias"] = normal(sides[0])
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
