"""Reference of CLIP's text transformer (Radford et al., 2021, section 2.4), always run at the full context length."""

import numpy as np
import numpy.typing as npt

from clip_search_export.reference.layers import ActivationRange, layer_norm, transformer, unit_length
from clip_search_export.weights import TextTransformer

__all__ = ["embed_with_text_transformer"]


def embed_with_text_transformer(
    ids: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], tower: TextTransformer, seen: ActivationRange
) -> npt.NDArray[np.float64]:
    """Embed padded texts.

    Args:
        ids: (batch, context), padded.
        ends: (batch,), the position of the pooled token.
        tower: the weights.
        seen: takes note of the activations.

    Returns:
        (batch, dim), unit length.
    """
    x = seen.see(tower.token_embedding[ids].astype(np.float64) + tower.positions)
    x = transformer(x, tower.transformer, seen, causal=True)
    pooled = layer_norm(x, tower.norm_final)[np.arange(len(ids)), ends]
    return unit_length(seen.see(pooled @ tower.projection))
