"""The layers of the reference: normalizations, activations, attention, transformer blocks."""

import math

import numpy as np
import numpy.typing as npt

from clip_search_export.weights import Activation, LayerNorm, Linear, Transformer, TransformerBlock

__all__ = [
    "ActivationRange",
    "Array",
    "activate",
    "attention",
    "erf",
    "layer_norm",
    "linear",
    "perceptron",
    "transformer",
    "unit_length",
]

Array = npt.NDArray[np.float64]

_ERF_REACH = 6.0
"""Beyond this, erf is 1 to the last bit of a float64."""
_ERF_STEPS_PER_UNIT = 512
_QUICK_GELU_REACH = 400.0


class ActivationRange:
    """Remembers the largest magnitude of the activations it is shown; decides whether FP16 can hold them."""

    def __init__(self) -> None:
        self.max = 0.0

    def see(self, x: Array) -> Array:
        """Note the magnitudes of `x` and return it."""
        self.max = max(self.max, float(np.abs(x).max(initial=0.0)))
        return x


def linear(x: Array, layer: Linear) -> Array:
    """Return x W + b."""
    return x @ layer.weight.astype(np.float64) + layer.bias


def layer_norm(x: Array, norm: LayerNorm) -> Array:
    """Normalize the last axis to mean 0 and variance 1, then scale and shift (Ba et al., 2016, equation 4)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    normalized: Array = centred / np.sqrt(variance + norm.epsilon) * norm.gain + norm.bias
    return normalized


def attention(query: Array, key: Array, value: Array, heads: int, *, causal: bool = False) -> Array:
    """Return softmax(Q K^T / sqrt(d)) V for each head (Vaswani et al., 2017, equation 1).

    Args:
        query: (batch, queries, width).
        key: (batch, length, width).
        value: (batch, length, width).
        heads: how many heads share the width.
        causal: whether query i sees only keys up to i.
    """
    q, k, v = (_split_heads(x, heads) for x in (query, key, value))  # (batch, heads, length, head width)
    logits = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])  # (batch, heads, queries, length)
    if causal:
        future = np.triu(np.ones(logits.shape[-2:], dtype=bool), k=1)
        logits = np.where(future, -np.inf, logits)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    attended: Array = weights @ v  # (batch, heads, queries, head width)
    return attended.swapaxes(1, 2).reshape(query.shape)


def transformer(x: Array, tower: Transformer, seen: ActivationRange, *, causal: bool) -> Array:
    """Run all blocks over (batch, length, width)."""
    for block in tower.blocks:
        x = seen.see(x + _self_attention(layer_norm(x, block.norm1), block, tower.heads, seen, causal=causal))
        h = perceptron(layer_norm(x, block.norm2), block.mlp_up, block.mlp_down, tower.activation, seen)
        x = seen.see(x + h)
    return x


def perceptron(x: Array, up: Linear, down: Linear, activation: Activation, seen: ActivationRange) -> Array:
    """Widen, activate, narrow again."""
    hidden = activate(seen.see(linear(x, up)), activation)
    return seen.see(linear(hidden, down))


def activate(x: Array, activation: Activation) -> Array:
    """Apply one of the activations (Hendrycks and Gimpel, 2016: GELU, and its two approximations)."""
    activated: Array
    if activation == "quick_gelu":
        # x * sigmoid(1.702 x); below the bound it is 0 to the last bit, and exp would overflow.
        activated = x / (1 + np.exp(-1.702 * np.maximum(x, -_QUICK_GELU_REACH)))
    elif activation == "gelu_tanh":
        activated = x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    else:
        activated = x * (1 + erf(x / math.sqrt(2))) / 2
    return activated


def unit_length(x: Array) -> Array:
    """Scale the last axis to length 1."""
    scaled: Array = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return scaled


def erf(x: Array) -> Array:
    """Return the error function to about 1e-13: cubic Hermite interpolation of a table of `math.erf`.

    NumPy has no error function; the derivative that the interpolation needs is known: 2/sqrt(pi) exp(-x^2).
    """
    position = np.clip(x, -_ERF_REACH, _ERF_REACH) * _ERF_STEPS_PER_UNIT
    left = np.minimum(np.floor(position), _ERF_REACH * _ERF_STEPS_PER_UNIT - 1)
    t = position - left
    index = (left + _ERF_REACH * _ERF_STEPS_PER_UNIT).astype(np.intp)
    value0, value1 = _ERF_TABLE[index], _ERF_TABLE[index + 1]
    slope0, slope1 = _ERF_SLOPES[index], _ERF_SLOPES[index + 1]
    step = value1 - value0
    return value0 + t * (slope0 + t * (3 * step - 2 * slope0 - slope1 + t * (slope0 + slope1 - 2 * step)))


def _erf_tables() -> tuple[Array, Array]:
    reach = int(_ERF_REACH * _ERF_STEPS_PER_UNIT)
    nodes = np.arange(-reach, reach + 1) / _ERF_STEPS_PER_UNIT
    slopes = 2 / math.sqrt(math.pi) * np.exp(-np.square(nodes)) / _ERF_STEPS_PER_UNIT
    return np.array([math.erf(node) for node in nodes]), slopes


_ERF_TABLE, _ERF_SLOPES = _erf_tables()


def _split_heads(x: Array, heads: int) -> Array:
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).swapaxes(1, 2)


def _self_attention(x: Array, block: TransformerBlock, heads: int, seen: ActivationRange, *, causal: bool) -> Array:
    query, key, value = np.split(seen.see(linear(x, block.qkv)), 3, axis=-1)
    return seen.see(linear(attention(query, key, value, heads, causal=causal), block.attention_output))
