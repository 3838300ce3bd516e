"""SigLIP checkpoints with random weights in Hugging Face layout: true shapes without a download.

Knows nothing of what is measured on it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from bench.towers.loads import Load, attention, linear, transformer
from bench.towers.random_tokenizers import SIGLIP_END, siglip_tokenizer
from bench.towers.random_vit import hf_block
from bench.towers.random_weights import Tensor, matrix, norm, vector, write_weights

__all__ = ["Siglip"]

_HEAD_WIDTH = 64


@dataclass(frozen=True, slots=True)
class Siglip:
    """Sizes, shared by both towers; the defaults are SigLIP-B/16's of 224 pixels."""

    patch: int = 16
    width: int = 768
    layers: int = 12
    image_size: int = 224
    context: int = 64
    vocabulary: int = 32_000
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    start_ids: tuple[int, ...] = ()
    end_id: int = SIGLIP_END
    pad_id: int = SIGLIP_END

    @property
    def words(self) -> range:
        """The token ids that are no special tokens."""
        return range(3, self.vocabulary)

    @property
    def text_lengths(self) -> tuple[int, ...]:
        """Every text is filled up to the context, and every token is seen."""
        return (self.context,)

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding."""
        return self.width

    def image_load(self) -> Load:
        """Return the load of one picture: patches, blocks, and a head that attends with one query."""
        width, patches = self.width, (self.image_size // self.patch) ** 2
        patching = linear(patches, 3 * self.patch**2, width)
        head = linear(patches, width, 2 * width) + attention(1, patches, width) + linear(1, width, 2 * width)
        blocks = transformer(patches, width, 4 * width, self.layers)
        return patching + blocks + head + linear(1, width, 8 * width)

    def text_load(self, tokens: int) -> Load:
        """Return the load of one text of `tokens` tokens."""
        return transformer(tokens, self.width, 4 * self.width, self.layers) + linear(1, self.width, self.width)

    def write(self, folder: Path) -> Path:
        """Write config, weights, tokenizer and preprocessing into `folder` once, and return it."""
        if not (folder / "model.safetensors").exists():
            folder.mkdir(parents=True, exist_ok=True)
            siglip_tokenizer().save(str(folder / "tokenizer.json"))
            tokenizer = {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "eos_token": "</s>"}
            (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
            (folder / "config.json").write_text(json.dumps(self._config()))
            (folder / "preprocessor_config.json").write_text(json.dumps(self._preprocessing()))
            write_weights(folder / "model.safetensors", self.tensors())
        return folder

    def tensors(self) -> list[Tensor]:
        """Return all parameters under transformers' names."""
        width, patch = self.width, self.patch
        text, vision = "text_model", "vision_model"
        head = f"{vision}.head"
        tensors = [
            Tensor("logit_scale", (1,), 0.0, 4.7),
            Tensor("logit_bias", (1,), 0.0, -12.9),
            Tensor(f"{vision}.embeddings.patch_embedding.weight", (width, 3, patch, patch), 1 / patch),
            vector(f"{vision}.embeddings.patch_embedding.bias", width),
            matrix(f"{vision}.embeddings.position_embedding.weight", (self.image_size // patch) ** 2, width),
            Tensor(f"{head}.probe", (1, 1, width), 1.0),
            matrix(f"{head}.attention.in_proj_weight", 3 * width, width),
            vector(f"{head}.attention.in_proj_bias", 3 * width),
            *_linear(f"{head}.attention.out_proj", width, width),
            *norm(f"{head}.layernorm", width),
            *_linear(f"{head}.mlp.fc1", 4 * width, width),
            *_linear(f"{head}.mlp.fc2", width, 4 * width),
            *norm(f"{vision}.post_layernorm", width),
            matrix(f"{text}.embeddings.token_embedding.weight", self.vocabulary, width),
            matrix(f"{text}.embeddings.position_embedding.weight", self.context, width),
            *norm(f"{text}.final_layer_norm", width),
            *_linear(f"{text}.head", width, width),
        ]
        for tower in (text, vision):
            for layer in range(self.layers):
                tensors += hf_block(f"{tower}.encoder.layers.{layer}", width)
        return tensors

    def _config(self) -> dict[str, object]:
        common = {
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_attention_heads": self.width // _HEAD_WIDTH,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
        }
        text = {
            **common,
            "model_type": "siglip_text_model",
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "projection_size": self.width,
        }
        vision = {
            **common,
            "model_type": "siglip_vision_model",
            "image_size": self.image_size,
            "patch_size": self.patch,
        }
        return {
            "architectures": ["SiglipModel"],
            "model_type": "siglip",
            "text_config": text,
            "vision_config": vision,
        }

    def _preprocessing(self) -> dict[str, object]:
        return {
            "do_resize": True,
            "size": {"height": self.image_size, "width": self.image_size},
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": self.mean,
            "image_std": self.std,
            "image_processor_type": "SiglipImageProcessor",
        }


def _linear(name: str, outputs: int, inputs: int) -> list[Tensor]:
    return [matrix(f"{name}.weight", outputs, inputs), vector(f"{name}.bias", outputs)]
