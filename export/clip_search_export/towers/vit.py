"""CLIP's vision transformer as a graph: from uint8 pixels to a unit-length embedding.

Pixels are folded in, centred: with u = (pixel - 128) / 128, which is exact in FP16 for every pixel value,

    (pixel / 255 - mean) / std = u * 128 / (255 std) + (128 / 255 - mean) / std

so the patch weights take the factor and the position embeddings take the constant. That is exact because the patches
are not padded. The patch embedding is one matrix product: a convolution whose stride is its kernel is nothing else.
"""

import numpy as np
import numpy.typing as npt

from clip_search_export.graph import GraphBuilder, Value
from clip_search_export.towers.layers import add_layer_norm, add_pooled_transformer, add_unit_length
from clip_search_export.weights import VisionTransformer
from clip_search_server.bundle import ImagePreprocessing

__all__ = ["add_vision_transformer", "fold_pixels"]

_CENTRE = 128.0
_WHITE = 255.0


def add_vision_transformer(
    graph: GraphBuilder, pixels: Value, tower: VisionTransformer, preprocessing: ImagePreprocessing
) -> Value:
    """Author the tower.

    Args:
        graph: where the nodes go.
        pixels: uint8 (batch, height, width, 3).
        tower: the weights.
        preprocessing: gives the mean and std that are folded in.

    Returns:
        float32 (batch, dim), unit length.
    """
    x = _add_tokens(graph, pixels, tower, preprocessing)  # (batch, 1 + patches, width)
    x = add_layer_norm(graph, x, tower.norm_pre, "norm_pre")

    def pool(value: Value, name: str) -> Value:
        bounds = [graph.integers(f"{name}.{bound}", [at]) for bound, at in (("start", 0), ("end", 1), ("axis", 1))]
        return graph.operator("Slice", [value, *bounds], name=name)

    x = add_pooled_transformer(graph, x, tower.transformer, tower.norm_post, causal=False, pool=pool)
    x = graph.operator("Squeeze", [x, graph.integers("pooled_axis", [1])], name="pooled")  # (batch, width)
    x = graph.compute("MatMul", [x, graph.weight("projection", tower.projection)], name="projected")
    return add_unit_length(graph, x)


def fold_pixels(
    tower: VisionTransformer, preprocessing: ImagePreprocessing
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return patch weights (patch * patch * 3, width) for centred pixels, and the constant (width,) left over."""
    mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)  # float64 (3,)
    weight = tower.patch_weight.astype(np.float64)  # (width, 3, patch, patch)
    scaled = weight * (_CENTRE / (_WHITE * std))[:, None, None]
    constant = np.einsum("wcij,c->w", weight, (_CENTRE / _WHITE - mean) / std)
    flat = scaled.transpose(2, 3, 1, 0).reshape(-1, len(weight))  # pixels of a patch are ordered row, column, channel
    return flat.astype(np.float32), constant.astype(np.float32)


def _add_tokens(
    graph: GraphBuilder, pixels: Value, tower: VisionTransformer, preprocessing: ImagePreprocessing
) -> Value:
    weight, constant = fold_pixels(tower, preprocessing)
    width = weight.shape[1]
    with graph.scope("patches"):
        patches = _add_centred_patches(graph, pixels, tower)
        embedded = graph.compute("MatMul", [patches, graph.weight("weight", weight)], name="embedded")
        positions = graph.weight("positions", (tower.positions[1:] + constant)[None])  # (1, patches, width)
        embedded = graph.compute("Add", [embedded, positions], name="positioned")  # (batch, patches, width)
    with graph.scope("class_token"):
        token = graph.weight("embedding", (tower.class_embedding + tower.positions[0])[None, None])  # (1, 1, width)
        token = graph.cast(token, graph.arithmetic)
        batch = graph.operator("Shape", [pixels], name="batch", dtype=np.int64, start=0, end=1)
        rest = graph.integers("shape", [1, width])
        shape = graph.operator("Concat", [batch, rest], name="expanded_shape", axis=0)
        token = graph.operator("Expand", [token, shape], name="expanded")  # (batch, 1, width)
    return graph.operator("Concat", [token, embedded], name="tokens", axis=1)


def _add_centred_patches(graph: GraphBuilder, pixels: Value, tower: VisionTransformer) -> Value:
    """Cut (batch, height, width, 3) into (batch, patches, patch * patch * 3), centred; moved while still bytes."""
    patch = tower.patch_weight.shape[-1]
    side = tower.image_size // patch
    grid = graph.integers("grid_shape", [-1, side, patch, side, patch, 3])
    x = graph.operator("Reshape", [pixels, grid], name="grid")
    x = graph.operator("Transpose", [x], name="grouped", perm=[0, 1, 3, 2, 4, 5])
    flat = graph.integers("flat_shape", [-1, side * side, patch * patch * 3])
    x = graph.operator("Reshape", [x, flat], name="flat")
    x = graph.cast(x, graph.arithmetic)
    centre = graph.exact("centre", np.array(_CENTRE, dtype=graph.arithmetic))
    scale = graph.exact("scale", np.array(1 / _CENTRE, dtype=graph.arithmetic))
    x = graph.operator("Sub", [x, centre], name="shifted")
    return graph.operator("Mul", [x, scale], name="centred")
