"""Reference of CLIP's modified ResNet (He et al., 2016; Zhang, 2019; Radford et al., 2021, section 2.4)."""

import numpy as np
import numpy.typing as npt

from clip_search_export.reference.layers import ActivationRange, attention, linear, unit_length
from clip_search_export.weights import AttentionPool, Bottleneck, Convolution, ModifiedResNet

__all__ = ["Array", "embed_with_modified_resnet"]

Array = npt.NDArray[np.float64]


def embed_with_modified_resnet(pixels: Array, tower: ModifiedResNet, seen: ActivationRange) -> Array:
    """Embed normalized pixels.

    Args:
        pixels: (batch, height, width, 3), rescaled and normalized.
        tower: the weights.
        seen: takes note of the activations.

    Returns:
        (batch, dim), unit length.
    """
    first, second, third = tower.stem
    x = _relu(_convolve(pixels, first, seen, stride=2))
    x = _relu(_convolve(x, second, seen))
    x = _relu(_convolve(x, third, seen))
    x = _average_pool(x, 2)
    for stage in tower.stages:
        for block in stage:
            x = _bottleneck(x, block, seen)
    return unit_length(seen.see(_attention_pool(x, tower.pool, seen)))


def _bottleneck(x: Array, block: Bottleneck, seen: ActivationRange) -> Array:
    h = _relu(_convolve(x, block.reduce, seen))
    h = _relu(_convolve(h, block.spatial, seen))
    h = _convolve(_average_pool(h, block.stride), block.expand, seen)
    identity = x
    if block.downsample is not None:
        identity = _convolve(_average_pool(x, block.stride), block.downsample, seen)
    return _relu(seen.see(h + identity))


def _attention_pool(x: Array, pool: AttentionPool, seen: ActivationRange) -> Array:
    batch, height, width, channels = x.shape
    places = x.reshape(batch, height * width, channels)
    tokens = np.concatenate([places.mean(axis=1, keepdims=True), places], axis=1)
    tokens = tokens + pool.positions.astype(np.float64)
    query, key, value = (seen.see(linear(tokens, layer)) for layer in (pool.query, pool.key, pool.value))
    return linear(attention(query, key, value, pool.heads), pool.output)[:, 0]


def _convolve(x: Array, convolution: Convolution, seen: ActivationRange, stride: int = 1) -> Array:
    """Convolve (batch, height, width, channels), zero-padded to keep the size, then normalize by stored statistics."""
    kernel = convolution.weight.shape[-1]
    edge = kernel // 2
    padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]  # (batch, height, width, channels, kernel, kernel)
    out = np.tensordot(windows, convolution.weight.astype(np.float64), axes=([3, 4, 5], [1, 2, 3]))
    norm = convolution.norm
    normalized = (out - norm.mean) / np.sqrt(norm.variance.astype(np.float64) + norm.epsilon)
    return seen.see(normalized * norm.gain + norm.bias)


def _average_pool(x: Array, size: int) -> Array:
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    cut = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    pooled: Array = cut.mean(axis=(2, 4))
    return pooled


def _relu(x: Array) -> Array:
    return np.maximum(x, 0.0)
