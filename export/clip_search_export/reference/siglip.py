"""Reference of SigLIP's towers (Zhai et al., 2023; pooling head: Lee et al., 2019, section 3.2)."""

import numpy as np
import numpy.typing as npt

from clip_search_export.reference.layers import (
    ActivationRange,
    Array,
    attention,
    layer_norm,
    linear,
    perceptron,
    transformer,
    unit_length,
)
from clip_search_export.reference.vit import embed_patches
from clip_search_export.weights import Activation, PoolingHead, SiglipTextTransformer, SiglipVisionTransformer

__all__ = ["embed_with_siglip_text", "embed_with_siglip_vision"]


def embed_with_siglip_vision(pixels: Array, tower: SiglipVisionTransformer, seen: ActivationRange) -> Array:
    """Embed normalized pixels.

    Args:
        pixels: (batch, height, width, 3), rescaled and normalized.
        tower: the weights.
        seen: takes note of the activations.

    Returns:
        (batch, dim), unit length.
    """
    x = seen.see(embed_patches(pixels, tower.patch_weight) + tower.patch_bias + tower.positions)
    x = transformer(x, tower.transformer, seen, causal=False)
    x = seen.see(layer_norm(x, tower.norm_post))
    return unit_length(seen.see(_pool(x, tower.head, tower.transformer.heads, tower.transformer.activation, seen)))


def embed_with_siglip_text(ids: npt.NDArray[np.int64], tower: SiglipTextTransformer, seen: ActivationRange) -> Array:
    """Embed texts, shape (batch, context), padded: every token sees the padding, and the last one is pooled.

    Returns:
        (batch, dim), unit length.
    """
    x = seen.see(tower.token_embedding[ids].astype(np.float64) + tower.positions)
    x = transformer(x, tower.transformer, seen, causal=False)
    return unit_length(seen.see(linear(layer_norm(x, tower.norm_final)[:, -1], tower.head)))


def _pool(x: Array, head: PoolingHead, heads: int, activation: Activation, seen: ActivationRange) -> Array:
    """Attend to (batch, patches, width) with one learned query; return (batch, width)."""
    probe = np.broadcast_to(head.probe.astype(np.float64), (len(x), 1, x.shape[-1]))
    query = seen.see(linear(probe, head.query))
    key, value = (seen.see(linear(x, layer)) for layer in (head.key, head.value))
    pooled = seen.see(linear(attention(query, key, value, heads), head.output))  # (batch, 1, width)
    hidden = perceptron(layer_norm(pooled, head.norm), head.mlp_up, head.mlp_down, activation, seen)
    return (pooled + hidden)[:, 0]
