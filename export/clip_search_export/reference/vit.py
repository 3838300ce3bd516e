"""Reference of CLIP's vision transformer (Dosovitskiy et al., 2020, section 3.1; Radford et al., 2021, section 2.4)."""

import numpy as np
import numpy.typing as npt

from clip_search_export.reference.layers import ActivationRange, layer_norm, transformer, unit_length
from clip_search_export.weights import VisionTransformer

__all__ = ["embed_with_vision_transformer"]


def embed_with_vision_transformer(
    pixels: npt.NDArray[np.float64], tower: VisionTransformer, seen: ActivationRange
) -> npt.NDArray[np.float64]:
    """Embed normalized pixels.

    Args:
        pixels: (batch, height, width, 3), rescaled and normalized.
        tower: the weights.
        seen: takes note of the activations.

    Returns:
        (batch, dim), unit length.
    """
    batch, height, _, _ = pixels.shape
    width, _, patch, _ = tower.patch_weight.shape
    side = height // patch
    cut = pixels.reshape(batch, side, patch, side, patch, 3)  # rows of patches, rows, columns of patches, columns, rgb
    patches = np.einsum("byixjc,wcij->byxw", cut, tower.patch_weight, optimize=True).reshape(batch, side * side, width)
    class_token = np.broadcast_to(tower.class_embedding.astype(np.float64), (batch, 1, width))
    tokens = np.concatenate([class_token, patches], axis=1) + tower.positions.astype(np.float64)
    x = seen.see(layer_norm(seen.see(tokens), tower.norm_pre))
    x = transformer(x, tower.transformer, seen, causal=False)
    pooled = layer_norm(x[:, 0], tower.norm_post)
    return unit_length(seen.see(pooled @ tower.projection))
