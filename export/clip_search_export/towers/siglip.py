"""SigLIP's towers as graphs: from uint8 pixels, or from padded token ids, to a unit-length embedding.

The pooling head attends with one query that is the same for every picture, which saves most of its work exactly. With
x the tokens, and W, b the projections, the logits of one head are

    q (x Wk + bk)^T = x (Wk q^T) + q bk^T

where the last term is the same for every token and so nothing to a softmax: a token needs one product with the vector
Wk q^T, not a key. Weights a that add up to 1 pass the value's projection likewise: a (x Wv + bv) = (a x) Wv + bv.

The text tower reads its whole context, padding included, and so declares that length: a shorter batch is refused by the
runtime instead of embedded wrongly. Only the last block is cut to the pooled token.
"""

import math

import numpy as np
import numpy.typing as npt

from clip_search_export.graph import GraphBuilder, Value
from clip_search_export.towers.layers import (
    add_layer_norm,
    add_linear,
    add_perceptron,
    add_pooled_transformer,
    add_transformer,
    add_unit_length,
)
from clip_search_export.towers.patches import add_patches
from clip_search_export.weights import Linear, PoolingHead, SiglipTextTransformer, SiglipVisionTransformer
from clip_search_server.bundle import ImagePreprocessing

__all__ = ["add_siglip_text_transformer", "add_siglip_vision_transformer"]


def add_siglip_vision_transformer(
    graph: GraphBuilder, pixels: Value, tower: SiglipVisionTransformer, preprocessing: ImagePreprocessing
) -> Value:
    """Author the image tower.

    Args:
        graph: where the nodes go.
        pixels: uint8 (batch, height, width, 3).
        tower: the weights.
        preprocessing: gives the size, and the mean and std that are folded in.

    Returns:
        float32 (batch, dim), unit length.
    """
    x = add_patches(graph, pixels, tower.patch_weight, tower.positions + tower.patch_bias, preprocessing)
    x = add_transformer(graph, x, tower.transformer, tower.norm_post)  # (batch, patches, width)
    with graph.scope("head"):
        pooled = _add_attention(graph, x, tower.head, tower.transformer.heads)
        h = add_layer_norm(graph, pooled, tower.head.norm, "norm")
        with graph.scope("mlp"):
            down = add_perceptron(graph, h, tower.head.mlp_up, tower.head.mlp_down, tower.transformer.activation)
            biased = graph.compute("Add", [down, graph.weight("down.bias", tower.head.mlp_down.bias)], name="biased")
        x = graph.compute("Add", [pooled, biased], name="sum")
    return add_unit_length(graph, x)


def add_siglip_text_transformer(graph: GraphBuilder, ids: Value, end: Value, tower: SiglipTextTransformer) -> Value:
    """Author the text tower.

    Args:
        graph: where the nodes go.
        ids: int64 (batch, context), padded.
        end: int64 (batch,), the position of each text's pooled token: the last of the context.
        tower: the weights.

    Returns:
        float32 (batch, dim), unit length.
    """
    end_column = graph.operator("Unsqueeze", [end, graph.integers("end_axis", [1])], name="end_column")  # (batch, 1)

    def pool(value: Value, name: str) -> Value:
        picked = graph.operator("GatherND", [value, end_column], name=f"{name}.picked", batch_dims=1)  # (batch, width)
        return graph.operator("Unsqueeze", [picked, graph.integers(f"{name}.axis", [1])], name=name)

    # Looked up before any cast, so that a runtime converts the rows it needs and not the vocabulary.
    table = graph.exact("token_embedding", graph.stored(tower.token_embedding))
    embedded = graph.cast(graph.operator("Gather", [table, ids], name="token_embedded"), graph.arithmetic)
    x = graph.compute("Add", [embedded, graph.weight("positions", tower.positions[None])], name="tokens")
    x = add_pooled_transformer(graph, x, tower.transformer, tower.norm_final, causal=False, pool=pool)
    x = graph.operator("Squeeze", [x, graph.integers("pooled_axis", [1])], name="pooled")  # (batch, width)
    return add_unit_length(graph, add_linear(graph, x, tower.head, "head"))


def _add_attention(graph: GraphBuilder, x: Value, head: PoolingHead, heads: int) -> Value:
    """Attend to (batch, patches, width) with the one query; return (batch, width)."""
    keys, values, output = _fold_query(head, heads)
    with graph.scope("attention"):
        logits = graph.compute("MatMul", [x, graph.weight("keys", keys)], name="logits")  # (batch, patches, heads)
        logits = graph.operator("Transpose", [logits], name="per_head", perm=[0, 2, 1])
        weights = graph.compute("Softmax", [logits], name="weights", axis=-1)  # (batch, heads, patches)
        mixed = graph.compute("MatMul", [weights, x], name="mixed")  # (batch, heads, width)
        # Heads first, so that each is one product for the whole batch.
        mixed = graph.operator("Transpose", [mixed], name="heads_first", perm=[1, 0, 2])
        value = graph.compute("MatMul", [mixed, graph.weight("values", values)], name="value")
        value = graph.operator("Transpose", [value], name="batch_first", perm=[1, 0, 2])  # (batch, heads, head width)
        attended = graph.operator("Reshape", [value, graph.integers("shape", [-1, len(head.probe)])], name="attended")
        return add_linear(graph, attended, output, "output")


def _fold_query(head: PoolingHead, heads: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], Linear]:
    """Return the query's products with the keys, the values by head, and the output that takes the values' bias.

    Shapes: (width, heads), (heads, width, head width), and a linear layer (width, width).
    """
    width = len(head.probe)
    query = head.probe.astype(np.float64) @ head.query.weight + head.query.bias  # (width,)
    per_head = query.reshape(heads, -1) / math.sqrt(width // heads)  # (heads, head width)
    keys = np.einsum("whd,hd->wh", head.key.weight.reshape(width, heads, -1), per_head)
    values = head.value.weight.reshape(width, heads, -1).transpose(1, 0, 2)
    bias = head.value.bias.astype(np.float64) @ head.output.weight + head.output.bias
    output = Linear(weight=head.output.weight, bias=bias.astype(np.float32))
    return keys.astype(np.float32), values, output
