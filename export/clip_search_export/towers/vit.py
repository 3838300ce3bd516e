"""CLIP's vision transformer as a graph: from uint8 pixels to a unit-length embedding."""

import numpy as np

from clip_search_export.graph import GraphBuilder, Value
from clip_search_export.towers.layers import add_layer_norm, add_pooled_transformer, add_unit_length
from clip_search_export.towers.patches import add_patches
from clip_search_export.weights import VisionTransformer
from clip_search_server.bundle import ImagePreprocessing

__all__ = ["add_vision_transformer"]


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


def _add_tokens(
    graph: GraphBuilder, pixels: Value, tower: VisionTransformer, preprocessing: ImagePreprocessing
) -> Value:
    embedded = add_patches(graph, pixels, tower.patch_weight, tower.positions[1:], preprocessing)
    with graph.scope("class_token"):
        width = len(tower.class_embedding)
        token = graph.weight("embedding", (tower.class_embedding + tower.positions[0])[None, None])  # (1, 1, width)
        token = graph.cast(token, graph.arithmetic)
        batch = graph.operator("Shape", [pixels], name="batch", dtype=np.int64, start=0, end=1)
        rest = graph.integers("shape", [1, width])
        shape = graph.operator("Concat", [batch, rest], name="expanded_shape", axis=0)
        token = graph.operator("Expand", [token, shape], name="expanded")  # (batch, 1, width)
    return graph.operator("Concat", [token, embedded], name="tokens", axis=1)
