"""Runs the reference of a tower on the inputs of the bundle contract: pixels and padded token ids."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clip_search_export.reference.layers import ActivationRange
from clip_search_export.reference.modified_resnet import embed_with_modified_resnet
from clip_search_export.reference.siglip import embed_with_siglip_text, embed_with_siglip_vision
from clip_search_export.reference.text_transformer import embed_with_text_transformer
from clip_search_export.reference.vit import embed_with_vision_transformer
from clip_search_export.weights import (
    ImageTower,
    SiglipTextTransformer,
    SiglipVisionTransformer,
    TextTower,
    VisionTransformer,
)
from clip_search_server.bundle import ImagePreprocessing

__all__ = ["Reference", "embed_images", "embed_texts"]

_WHITE = 255.0
_IMAGES_AT_ONCE = 4


class Reference(NamedTuple):
    """What the reference says of some inputs."""

    embeddings: npt.NDArray[np.float64]  # (inputs, dim), unit length
    activation_max: float
    """The largest magnitude of any activation on the way."""


def embed_images(pixels: npt.NDArray[np.uint8], tower: ImageTower, preprocessing: ImagePreprocessing) -> Reference:
    """Embed pictures, shape (inputs, size, size, 3), a few at a time so that memory stays small."""
    seen = ActivationRange()
    normalized = (pixels / _WHITE - np.array(preprocessing.mean)) / np.array(preprocessing.std)  # float64
    starts = range(0, len(pixels), _IMAGES_AT_ONCE)
    embeddings = [_embed_image(normalized[start : start + _IMAGES_AT_ONCE], tower, seen) for start in starts]
    return Reference(np.concatenate(embeddings), seen.max)


def embed_texts(ids: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], tower: TextTower) -> Reference:
    """Embed texts, shape (inputs, context), padded; `ends` holds the position of each one's pooled token."""
    seen = ActivationRange()
    if isinstance(tower, SiglipTextTransformer):
        return Reference(embed_with_siglip_text(ids, tower, seen), seen.max)
    return Reference(embed_with_text_transformer(ids, ends, tower, seen), seen.max)


def _embed_image(pixels: npt.NDArray[np.float64], tower: ImageTower, seen: ActivationRange) -> npt.NDArray[np.float64]:
    if isinstance(tower, VisionTransformer):
        return embed_with_vision_transformer(pixels, tower, seen)
    if isinstance(tower, SiglipVisionTransformer):
        return embed_with_siglip_vision(pixels, tower, seen)
    return embed_with_modified_resnet(pixels, tower, seen)
