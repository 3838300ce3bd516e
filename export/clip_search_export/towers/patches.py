"""The patch embedding of vision transformers as a graph: from uint8 pixels to one token a patch.

Pixels are folded in, centred: with u = (pixel - 128) / 128, which is exact in FP16 for every pixel value,

    (pixel / 255 - mean) / std = u * 128 / (255 std) + (128 / 255 - mean) / std

so the patch weights take the factor and the position embeddings take the constant. That is exact because the patches
are not padded. The patch embedding is one matrix product: a convolution whose stride is its kernel is nothing else.
"""

import numpy as np
import numpy.typing as npt

from clip_search_export.graph import GraphBuilder, Value
from clip_search_export.towers.products import add_byte_product
from clip_search_export.weights import Array
from clip_search_server.bundle import ImagePreprocessing

__all__ = ["add_patches", "fold_pixels"]

_CENTRE = 128.0
_WHITE = 255.0


def add_patches(
    graph: GraphBuilder, pixels: Value, patch_weight: Array, positions: Array, preprocessing: ImagePreprocessing
) -> Value:
    """Author the patch embedding and its positions.

    Args:
        graph: where the nodes go.
        pixels: uint8 (batch, size, size, 3).
        patch_weight: (width, 3, patch, patch).
        positions: (patches, width), with the bias of the embedding if it has one.
        preprocessing: gives the size, and the mean and std that are folded in.

    Returns:
        (batch, patches, width), row by row.
    """
    weight, constant = fold_pixels(patch_weight, preprocessing)
    with graph.scope("patches"):
        patches = _add_patches(graph, pixels, patch_weight.shape[-1], preprocessing.size)
        embedded = add_byte_product(graph, patches, weight, "embedded")
        offsets = graph.weight("positions", (positions + constant)[None])  # (1, patches, width)
        return graph.compute("Add", [embedded, offsets], name="positioned")


def fold_pixels(
    patch_weight: Array, preprocessing: ImagePreprocessing
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return patch weights (patch * patch * 3, width) for centred pixels, and the constant (width,) left over."""
    mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)  # float64 (3,)
    weight = patch_weight.astype(np.float64)  # (width, 3, patch, patch)
    scaled = weight * (_CENTRE / (_WHITE * std))[:, None, None]
    constant = np.einsum("wcij,c->w", weight, (_CENTRE / _WHITE - mean) / std)
    flat = scaled.transpose(2, 3, 1, 0).reshape(-1, len(weight))  # pixels of a patch are ordered row, column, channel
    return flat.astype(np.float32), constant.astype(np.float32)


def _add_patches(graph: GraphBuilder, pixels: Value, patch: int, size: int) -> Value:
    """Cut bytes (batch, size, size, 3) into (batch, patches, patch * patch * 3)."""
    side = size // patch
    if side * patch != size:
        # Like a convolution, the embedding leaves out what fills no patch at the end.
        bounds = ("start", [0, 0]), ("end", [side * patch] * 2), ("axes", [1, 2])
        corners = [graph.integers(f"whole.{bound}", at) for bound, at in bounds]
        pixels = graph.operator("Slice", [pixels, *corners], name="whole")
    grid = graph.integers("grid_shape", [-1, side, patch, side, patch, 3])
    x = graph.operator("Reshape", [pixels, grid], name="grid")
    x = graph.operator("Transpose", [x], name="grouped", perm=[0, 1, 3, 2, 4, 5])
    flat = graph.integers("flat_shape", [-1, side * side, patch * patch * 3])
    return graph.operator("Reshape", [x, flat], name="flat")
