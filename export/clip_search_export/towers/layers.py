"""The layers that towers share: transformer blocks with ONNX Runtime's fused operators, and unit length.

The blocks are written so that each residual sum, the bias before it and the normalization after it are one
SkipLayerNormalization, and the projections of query, key and value are one product inside Attention. The last block
computes only what the pooled token needs: keys and values of all tokens, the rest for one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from clip_search_export.graph import MICROSOFT, GraphBuilder, Value
from clip_search_export.towers.products import add_product, is_quantized, note_product
from clip_search_export.weights import Activation, LayerNorm, Linear, Transformer, TransformerBlock

__all__ = [
    "add_layer_norm",
    "add_linear",
    "add_perceptron",
    "add_pooled_transformer",
    "add_transformer",
    "add_unit_length",
]

_NORM_MIN = 1e-12
"""Smallest length that is divided by: a zero vector stays zero instead of becoming NaN."""


def add_layer_norm(graph: GraphBuilder, x: Value, norm: LayerNorm, name: str) -> Value:
    """Normalize over the last axis."""
    with graph.scope(name):
        weights = [graph.weight("gain", norm.gain), graph.weight("bias", norm.bias)]
        return graph.compute(
            "LayerNormalization", [x, *weights], name="normalized", axis=-1, epsilon=norm.epsilon, stash_type=1
        )


def add_linear(graph: GraphBuilder, x: Value, linear: Linear, name: str) -> Value:
    """Multiply by the weight and add the bias."""
    with graph.scope(name):
        product = add_product(graph, x, linear.weight, "product")
        return graph.compute("Add", [product, graph.weight("bias", linear.bias)], name="sum")


def add_pooled_transformer(
    graph: GraphBuilder,
    x: Value,
    transformer: Transformer,
    norm_final: LayerNorm,
    *,
    causal: bool,
    pool: Callable[[Value, str], Value],
    pooled_mask: Value | None = None,
) -> Value:
    """Run all blocks and the final normalization for the pooled token.

    Args:
        graph: where the nodes go.
        x: (batch, length, width).
        transformer: the blocks.
        norm_final: the normalization behind the last block.
        causal: whether a token sees only itself and the tokens before it.
        pool: takes (batch, length, width) and a name to (batch, 1, width): the pooled token alone.
        pooled_mask: int32 (batch, length), 1 for the tokens that the pooled token sees; None if it sees all.

    Returns:
        (batch, 1, width).
    """
    *inner, last = transformer.blocks
    sums = _add_blocks(graph, x, inner, transformer, causal=causal)
    with graph.scope("blocks", len(inner)):
        h, residual = _add_sum_and_norm(graph, sums, last.norm1, "norm1")
        attended = _add_pooled_attention(
            graph, h, pool(h, "pooled_query"), last, heads=transformer.heads, mask=pooled_mask
        )
        sums = _Sums(pool(residual, "pooled_residual"), attended, last.attention_output)
        sums = _add_mlp(graph, sums, last, transformer.activation)
    return _add_sum_and_norm(graph, sums, norm_final, "norm_final")[0]


def add_transformer(graph: GraphBuilder, x: Value, transformer: Transformer, norm_final: LayerNorm) -> Value:
    """Run all blocks, every token seeing every other, and the final normalization over (batch, length, width)."""
    sums = _add_blocks(graph, x, transformer.blocks, transformer, causal=False)
    return _add_sum_and_norm(graph, sums, norm_final, "norm_final")[0]


def add_perceptron(graph: GraphBuilder, x: Value, up: Linear, down: Linear, activation: Activation) -> Value:
    """Widen, activate, narrow again; the last bias is left to the sum that follows."""
    hidden = add_product(graph, x, up.weight, "up")
    activated = _add_biased_activation(graph, hidden, up, activation)
    return add_product(graph, activated, down.weight, "down")


def add_unit_length(graph: GraphBuilder, x: Value) -> Value:
    """Scale (batch, dim) to length 1 along the last axis, in FP32 whatever the precision of the graph."""
    with graph.scope("unit_length"):
        wide = graph.cast(x, np.float32)
        axes = graph.integers("axes", [-1])
        length = graph.operator("ReduceL2", [wide, axes], name="length", keepdims=1)
        floor = graph.exact("length_min", np.array(_NORM_MIN, dtype=np.float32))
        return graph.operator("Div", [wide, graph.operator("Max", [length, floor], name="divisor")], name="quotient")


class _Sums(NamedTuple):
    """A residual sum that is not yet computed: residual + branch + bias, to be fused with the next normalization."""

    residual: Value
    branch: Value | None
    bias: Linear | None


def _add_blocks(
    graph: GraphBuilder, x: Value, blocks: Sequence[TransformerBlock], transformer: Transformer, *, causal: bool
) -> _Sums:
    sums = _Sums(residual=x, branch=None, bias=None)
    for index, block in enumerate(blocks):
        with graph.scope("blocks", index):
            h, residual = _add_sum_and_norm(graph, sums, block.norm1, "norm1")
            attended = _add_self_attention(graph, h, block, transformer.heads, causal=causal)
            sums = _Sums(residual, attended, block.attention_output)
            sums = _add_mlp(graph, sums, block, transformer.activation)
    return sums


def _add_sum_and_norm(graph: GraphBuilder, sums: _Sums, norm: LayerNorm, name: str) -> tuple[Value, Value]:
    """Return the normalized sum and the sum itself."""
    if sums.branch is None or sums.bias is None:
        return add_layer_norm(graph, sums.residual, norm, name), sums.residual
    with graph.scope(name):
        weights = [
            graph.weight("gain", norm.gain),
            graph.weight("bias", norm.bias),
            graph.weight("branch_bias", sums.bias.bias),
        ]
        normalized, total = graph.compute_many(
            "SkipLayerNormalization",
            [sums.residual, sums.branch, *weights],
            # The two outputs left out are for training.
            names=("normalized", "", "", "sum"),
            domain=MICROSOFT,
            epsilon=norm.epsilon,
        )
    return normalized, total


def _add_self_attention(graph: GraphBuilder, h: Value, block: TransformerBlock, heads: int, *, causal: bool) -> Value:
    with graph.scope("attention"):
        bias = graph.weight("qkv.bias", block.qkv.bias)
        if is_quantized(graph, "qkv"):
            parts = _add_split(graph, add_product(graph, h, block.qkv.weight, "qkv"))
            kind, inputs = "MultiHeadAttention", [*parts, bias]
        else:
            note_product(graph, h, block.qkv.weight, "qkv")
            kind, inputs = "Attention", [h, graph.weight("qkv.weight", block.qkv.weight), bias]
        attended = graph.compute(
            kind, inputs, name="attended", domain=MICROSOFT, num_heads=heads, unidirectional=int(causal)
        )
        return add_product(graph, attended, block.attention_output.weight, "output")


def _add_split(graph: GraphBuilder, x: Value) -> tuple[Value, ...]:
    """Cut (batch, length, 3 * width) into query, key and value."""
    return graph.compute_many("Split", [x], names=("query", "key", "value"), axis=-1, num_outputs=3)


def _add_pooled_attention(
    graph: GraphBuilder, h: Value, pooled: Value, block: TransformerBlock, *, heads: int, mask: Value | None
) -> Value:
    parts = np.split(block.qkv.weight, 3, axis=1)  # each (width, width)
    with graph.scope("attention"):
        query, key, value = (
            add_product(graph, x, weight, part)
            for x, part, weight in zip((pooled, h, h), ("query", "key", "value"), parts, strict=True)
        )
        attended = graph.compute(
            "MultiHeadAttention",
            [query, key, value, graph.weight("qkv.bias", block.qkv.bias), mask],
            name="attended",
            domain=MICROSOFT,
            num_heads=heads,
        )
        return add_product(graph, attended, block.attention_output.weight, "output")


def _add_mlp(graph: GraphBuilder, sums: _Sums, block: TransformerBlock, activation: Activation) -> _Sums:
    h, residual = _add_sum_and_norm(graph, sums, block.norm2, "norm2")
    with graph.scope("mlp"):
        down = add_perceptron(graph, h, block.mlp_up, block.mlp_down, activation)
    return _Sums(residual, down, block.mlp_down)


def _add_biased_activation(graph: GraphBuilder, hidden: Value, up: Linear, activation: Activation) -> Value:
    bias = graph.weight("up.bias", up.bias)
    if activation == "gelu":
        return graph.compute("BiasGelu", [hidden, bias], name="activated", domain=MICROSOFT)
    if activation == "gelu_tanh":
        # FastGelu is no approximation here: it is the tanh formula itself.
        return graph.compute("FastGelu", [hidden, bias], name="activated", domain=MICROSOFT)
    biased = graph.compute("Add", [hidden, bias], name="biased")
    return graph.compute("QuickGelu", [biased], name="activated", domain=MICROSOFT, alpha=1.702)
