"""CLIP ViT checkpoints with random weights in Hugging Face layout: true shapes without a download.

Speed does not depend on what weights say. Knows nothing of what is measured on it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from bench.towers.clip_texts import HEAD_WIDTH, ClipTexts
from bench.towers.loads import Load, linear, transformer
from bench.towers.random_tokenizers import clip_tokenizer
from bench.towers.random_weights import Tensor, matrix, norm, vector, write_weights

__all__ = ["ClipVit", "hf_block"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipVit(ClipTexts):
    """Sizes of both towers; the defaults are ViT-B/32's."""

    patch: int = 32
    width: int = 768
    layers: int = 12
    image_size: int = 224

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding: in the released models, that of the text tower's width."""
        return self.text_width

    @property
    def pad_id(self) -> int:
        """What the model's own tokenizer fills texts up with."""
        return self.end_id

    def image_load(self) -> Load:
        """Return the load of one picture."""
        patches = (self.image_size // self.patch) ** 2
        patching = linear(patches, 3 * self.patch**2, self.width)
        blocks = transformer(patches + 1, self.width, 4 * self.width, self.layers)
        return patching + blocks + linear(1, self.width, self.embedding_dim)

    def write(self, folder: Path) -> Path:
        """Write config, weights, tokenizer and preprocessing into `folder` once, and return it."""
        if not (folder / "model.safetensors").exists():
            folder.mkdir(parents=True, exist_ok=True)
            clip_tokenizer(self.vocabulary).save(str(folder / "tokenizer.json"))
            (folder / "config.json").write_text(json.dumps(self._config()))
            (folder / "preprocessor_config.json").write_text(json.dumps(self._preprocessing()))
            write_weights(folder / "model.safetensors", self.tensors())
        return folder

    def tensors(self) -> list[Tensor]:
        """Return all parameters under transformers' names."""
        places = (self.image_size // self.patch) ** 2 + 1
        text, vision = "text_model", "vision_model"
        tensors = [
            Tensor("logit_scale", (), 0.0, 4.6052),
            matrix("text_projection.weight", self.embedding_dim, self.text_width),
            matrix("visual_projection.weight", self.embedding_dim, self.width),
            matrix(f"{text}.embeddings.token_embedding.weight", self.vocabulary, self.text_width),
            matrix(f"{text}.embeddings.position_embedding.weight", self.context, self.text_width),
            vector(f"{vision}.embeddings.class_embedding", self.width),
            Tensor(
                f"{vision}.embeddings.patch_embedding.weight", (self.width, 3, self.patch, self.patch), 1 / self.patch
            ),
            matrix(f"{vision}.embeddings.position_embedding.weight", places, self.width),
            *norm(f"{text}.final_layer_norm", self.text_width),
            *norm(f"{vision}.pre_layrnorm", self.width),
            *norm(f"{vision}.post_layernorm", self.width),
        ]
        for tower, width, layers in ((text, self.text_width, self.text_layers), (vision, self.width, self.layers)):
            for layer in range(layers):
                tensors += hf_block(f"{tower}.encoder.layers.{layer}", width)
        return tensors

    def _config(self) -> dict[str, object]:
        common = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": self.embedding_dim}
        text = {
            **common,
            "model_type": "clip_text_model",
            "num_hidden_layers": self.text_layers,
            "hidden_size": self.text_width,
            "intermediate_size": 4 * self.text_width,
            "num_attention_heads": self.text_width // HEAD_WIDTH,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "bos_token_id": self.start_ids[0],
            "eos_token_id": self.end_id,
            "pad_token_id": 1,
        }
        vision = {
            **common,
            "model_type": "clip_vision_model",
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_attention_heads": self.width // HEAD_WIDTH,
            "image_size": self.image_size,
            "patch_size": self.patch,
        }
        return {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": self.embedding_dim,
            "logit_scale_init_value": 2.6592,
            "text_config": text,
            "vision_config": vision,
        }

    def _preprocessing(self) -> dict[str, object]:
        return {
            "do_resize": True,
            "size": {"shortest_edge": self.image_size},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": self.image_size, "width": self.image_size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": self.mean,
            "image_std": self.std,
            "do_convert_rgb": True,
            "image_processor_type": "CLIPImageProcessor",
        }


def hf_block(prefix: str, width: int) -> list[Tensor]:
    """Return the parameters of a transformer block under transformers' names, which CLIP and SigLIP share."""
    linear_layers = {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
    linear_layers |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    tensors = [*norm(f"{prefix}.layer_norm1", width), *norm(f"{prefix}.layer_norm2", width)]
    for name, sides in linear_layers.items():
        tensors += [matrix(f"{prefix}.{name}.weight", *sides), vector(f"{prefix}.{name}.bias", sides[0])]
    return tensors
