"""CLIP's text transformer as a graph: from token ids to a unit-length embedding.

Attention is causal, so a token's output depends on nothing behind it: texts may be run at their own length, and in a
batch of different lengths whatever stands behind a text's end token does not reach its embedding. The pooled token is
given by its position; the graph never looks for it among the ids.
"""

import numpy as np

from clip_search_export.graph import GraphBuilder, Value
from clip_search_export.towers.layers import add_pooled_transformer, add_unit_length
from clip_search_export.weights import TextTransformer

__all__ = ["add_text_transformer"]


def add_text_transformer(graph: GraphBuilder, ids: Value, end: Value, tower: TextTransformer) -> Value:
    """Author the tower.

    Args:
        graph: where the nodes go.
        ids: int64 (batch, length).
        end: int64 (batch,), the position of each text's pooled token.
        tower: the weights.

    Returns:
        float32 (batch, dim), unit length.
    """
    length = graph.operator("Shape", [ids], name="length", dtype=np.int64, start=1, end=2)  # (1,)
    end_column = graph.operator("Unsqueeze", [end, graph.integers("end_axis", [1])], name="end_column")  # (batch, 1)

    def pool(value: Value, name: str) -> Value:
        picked = graph.operator("GatherND", [value, end_column], name=f"{name}.picked", batch_dims=1)  # (batch, width)
        return graph.operator("Unsqueeze", [picked, graph.integers(f"{name}.axis", [1])], name=name)

    x = graph.compute(
        "Add", [_add_token_embeddings(graph, ids, tower), _add_positions(graph, length, tower)], name="tokens"
    )  # (batch, length, width)
    x = add_pooled_transformer(
        graph,
        x,
        tower.transformer,
        tower.norm_final,
        causal=True,
        pool=pool,
        pooled_mask=_add_pooled_mask(graph, length, end_column),
    )
    x = graph.operator("Squeeze", [x, graph.integers("pooled_axis", [1])], name="pooled")  # (batch, width)
    x = graph.compute("MatMul", [x, graph.weight("projection", tower.projection)], name="projected")
    return add_unit_length(graph, x)


def _add_token_embeddings(graph: GraphBuilder, ids: Value, tower: TextTransformer) -> Value:
    # Looked up before any cast, so that a runtime converts the rows it needs and not the vocabulary.
    table = graph.exact("token_embedding", graph.stored(tower.token_embedding))
    return graph.cast(graph.operator("Gather", [table, ids], name="token_embedded"), graph.arithmetic)


def _add_positions(graph: GraphBuilder, length: Value, tower: TextTransformer) -> Value:
    table = graph.weight("positions", tower.positions)  # (context, width)
    start, axis = graph.integers("positions.start", [0]), graph.integers("positions.axis", [0])
    return graph.operator("Slice", [table, start, length, axis], name="positioned")  # (length, width)


def _add_pooled_mask(graph: GraphBuilder, length: Value, end_column: Value) -> Value:
    """Return int32 (batch, length): 1 up to the pooled token, 0 behind it."""
    with graph.scope("pooled_mask"):
        bounds = [
            graph.exact("start", np.array(0, dtype=np.int64)),
            graph.operator("Squeeze", [length], name="limit"),
            graph.exact("step", np.array(1, dtype=np.int64)),
        ]
        places = graph.operator("Range", bounds, name="places")  # (length,)
        seen = graph.operator("LessOrEqual", [places, end_column], name="seen", dtype=np.bool_)
        return graph.cast(seen, np.int32)
