"""The towers as weights: what every checkpoint reader produces and every tower module consumes.

Layouts, file formats and precisions end here: names and axes are the same whatever the source, arrays are float32, and
nothing is folded yet, so that the reference can compute what the papers say. A linear layer's weight is stored
(inputs, outputs), to be applied as `x @ weight + bias`.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "Activation",
    "Array",
    "AttentionPool",
    "BatchNorm",
    "Bottleneck",
    "Convolution",
    "ImageTower",
    "LayerNorm",
    "Linear",
    "ModifiedResNet",
    "PoolingHead",
    "SiglipTextTransformer",
    "SiglipVisionTransformer",
    "TextTower",
    "TextTransformer",
    "Transformer",
    "TransformerBlock",
    "VisionTransformer",
    "walk",
]

Array: TypeAlias = npt.NDArray[np.float32]

Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]
"""`quick_gelu`: x * sigmoid(1.702 x); `gelu`: the exact one, with the error function; `gelu_tanh`: its approximation
x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""


@dataclass(frozen=True)
class LayerNorm:
    """Normalization over the last axis (Ba et al., 2016)."""

    gain: Array  # (width,)
    bias: Array  # (width,)
    epsilon: float


@dataclass(frozen=True)
class Linear:
    """An affine map."""

    weight: Array  # (inputs, outputs)
    bias: Array  # (outputs,)


@dataclass(frozen=True)
class TransformerBlock:
    """One pre-norm block: attention, then a two-layer perceptron, each added to its input."""

    norm1: LayerNorm
    qkv: Linear  # weight (width, 3 * width): query, key and value side by side
    attention_output: Linear
    norm2: LayerNorm
    mlp_up: Linear
    mlp_down: Linear


@dataclass(frozen=True)
class Transformer:
    """A stack of blocks of one width."""

    blocks: tuple[TransformerBlock, ...]
    heads: int
    activation: Activation


@dataclass(frozen=True)
class VisionTransformer:
    """CLIP's ViT: patches and a class token, pooled at the class token (Radford et al., 2021, section 2.4)."""

    patch_weight: Array  # (width, 3, patch, patch)
    class_embedding: Array  # (width,)
    positions: Array  # (1 + patches, width), the class token's first
    norm_pre: LayerNorm
    transformer: Transformer
    norm_post: LayerNorm
    projection: Array  # (width, embedding)
    image_size: int


@dataclass(frozen=True)
class BatchNorm:
    """Normalization by stored statistics (Ioffe and Szegedy, 2015)."""

    gain: Array  # (channels,)
    bias: Array  # (channels,)
    mean: Array  # (channels,)
    variance: Array  # (channels,)
    epsilon: float


@dataclass(frozen=True)
class Convolution:
    """A convolution without bias and the batch normalization behind it."""

    weight: Array  # (outputs, inputs, kernel, kernel)
    norm: BatchNorm


@dataclass(frozen=True)
class Bottleneck:
    """A residual block of 1x1, 3x3 and 1x1 convolutions; a stride is an average pool before the last one."""

    reduce: Convolution
    spatial: Convolution
    expand: Convolution
    downsample: Convolution | None
    stride: int


@dataclass(frozen=True)
class AttentionPool:
    """One attention layer whose query is the mean of all positions."""

    positions: Array  # (1 + height * width, width), the mean's first
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    heads: int


@dataclass(frozen=True)
class ModifiedResNet:
    """CLIP's ResNet: deep stem, antialiased strides, attention pool (Radford et al., 2021, section 2.4)."""

    stem: tuple[Convolution, Convolution, Convolution]
    stages: tuple[tuple[Bottleneck, ...], ...]
    pool: AttentionPool
    image_size: int


@dataclass(frozen=True)
class TextTransformer:
    """CLIP's causal text tower, pooled at one token (Radford et al., 2021, section 2.4)."""

    token_embedding: Array  # (vocabulary, width)
    positions: Array  # (context, width)
    transformer: Transformer
    norm_final: LayerNorm
    projection: Array  # (width, embedding)


@dataclass(frozen=True)
class PoolingHead:
    """Attention with one learned query, then a perceptron (Lee et al., 2019: MAP, multihead attention pooling)."""

    probe: Array  # (width,), the query before its projection
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    norm: LayerNorm
    mlp_up: Linear
    mlp_down: Linear


@dataclass(frozen=True)
class SiglipVisionTransformer:
    """SigLIP's ViT (Zhai et al., 2023): no class token, pooled by attention; the pooled token is the embedding."""

    patch_weight: Array  # (width, 3, patch, patch)
    patch_bias: Array  # (width,)
    positions: Array  # (patches, width)
    transformer: Transformer
    norm_post: LayerNorm
    head: PoolingHead
    image_size: int


@dataclass(frozen=True)
class SiglipTextTransformer:
    """SigLIP's text tower: every token sees every other, padding included; pooled at the last one."""

    token_embedding: Array  # (vocabulary, width)
    positions: Array  # (context, width)
    transformer: Transformer
    norm_final: LayerNorm
    head: Linear  # weight (width, embedding)


ImageTower: TypeAlias = VisionTransformer | ModifiedResNet | SiglipVisionTransformer
TextTower: TypeAlias = TextTransformer | SiglipTextTransformer


def walk(value: object, path: str = "") -> Iterator[tuple[str, Array | float | str | None]]:
    """Yield every array and setting of a tower with its dotted path, in the order of declaration."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from walk(getattr(value, field.name), f"{path}.{field.name}" if path else field.name)
    elif isinstance(value, tuple):
        for index, element in enumerate(value):
            yield from walk(element, f"{path}.{index}")
    elif isinstance(value, np.ndarray | int | float | str) or value is None:
        yield path, value
    else:
        raise TypeError(f"{path} is a {type(value).__name__}. This is a bug.")
