"""Reference of CLIP's vision transformer (Dosovitskiy et al., 2020, section 3.1; Radford et al., 2021, section 2.4)."""

import numpy as np
import numpy.typing as npt

from clip_search_export.reference.layers import ActivationRange, layer_norm, transformer, unit_length
from clip_search_export.weights import Array, VisionTransformer

__all__ = ["embed_patches", "embed_with_vision_transformer"]


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
    patches = embed_patches(pixels, tower.patch_weight)
    batch, _, width = patches.shape
    class_token = np.broadcast_to(tower.class_embedding.astype(np.float64), (batch, 1, width))
    tokens = np.concatenate([class_token, patches], axis=1) + tower.positions.astype(np.float64)
    x = seen.see(layer_norm(seen.see(tokens), tower.norm_pre))
    x = transformer(x, tower.transformer, seen, causal=False)
    pooled = layer_norm(x[:, 0], tower.norm_post)
    return unit_length(seen.see(pooled @ tower.projection))


def embed_patches(pixels: npt.NDArray[np.float64], weight: Array) -> npt.NDArray[np.float64]:
    """Apply the patch embedding, shape (width, 3, patch, patch), to (batch, height, width, 3).

    As in a convolution without padding, rows and columns at the end that fill no patch are left out.

    Returns:
        (batch, patches, width), row by row.
    """
    batch, height, _, _ = pixels.shape
    width, _, patch, _ = weight.shape
    side = height // patch
    whole = pixels[:, : side * patch, : side * patch]
    cut = whole.reshape(batch, side, patch, side, patch, 3)  # rows of patches, rows, columns of patches, columns, rgb
    patches: npt.NDArray[np.float64] = np.einsum("byixjc,wcij->byxw", cut, weight, optimize=True)
    return patches.reshape(batch, side * side, width)
