"""Moves what is hard to quantize in activations into weights (SmoothQuant: Xiao et al. 2022, arXiv 2211.10438).

A few channels of a transformer's activations are far larger than the rest, and one scale for all leaves little for the
others. With divisors s by channel,

    x W = (x / s) (s W)

holds exactly, and where x comes from a normalization or a linear layer, the division is folded into its weights. That
is so for three of a block's four products: after both normalizations, and after attention, whose output is a mixture of
values, channel by channel. Knows nothing of graphs; a smoothed tower computes what the tower did.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from clip_search_export.quantization.calibration import SiteSamples
from clip_search_export.quantization.planning import Divisors
from clip_search_export.weights import Array, LayerNorm, Linear, Transformer, TransformerBlock

__all__ = ["smooth_transformer"]

_SHARE: Final = 0.5
"""How much of the imbalance moves into the weights; the paper's alpha."""
_SMALLEST = 1e-5
_REACH = 1e3
"""_Divisors stay within this factor of their mean, so that a channel that was silent does not explode."""


def smooth_transformer(transformer: Transformer, samples: Mapping[str, SiteSamples]) -> tuple[Transformer, Divisors]:
    """Return an equal transformer whose activations are more even.

    Args:
        transformer: all its blocks.
        samples: what enters each product, by its name in the graph.

    Returns:
        The transformer, and by name of product what its input's channels, shape (width,), are now divided by.
    """
    divisors: dict[str, Array] = {}
    blocks = []
    for index, block in enumerate(transformer.blocks):
        attention, mlp = f"blocks.{index}.attention", f"blocks.{index}.mlp"
        readers = [site for part in ("qkv", "query", "key", "value") if (site := f"{attention}.{part}") in samples]
        entering = _divisors(_largest(samples, readers), block.qkv.weight)
        leaving = _divisors(_largest(samples, [f"{attention}.output"]), block.attention_output.weight)
        widening = _divisors(_largest(samples, [f"{mlp}.up"]), block.mlp_up.weight)
        divisors |= dict.fromkeys(readers, entering) | {f"{attention}.output": leaving, f"{mlp}.up": widening}
        blocks.append(_smooth_block(block, entering, leaving, widening))
    return dataclasses.replace(transformer, blocks=tuple(blocks)), divisors


def _smooth_block(block: TransformerBlock, entering: Array, leaving: Array, widening: Array) -> TransformerBlock:
    ones = np.ones_like(leaving)
    return dataclasses.replace(
        block,
        norm1=_divide_norm(block.norm1, entering),
        qkv=_divide_outputs(_multiply_inputs(block.qkv, entering), np.concatenate([ones, ones, leaving])),
        attention_output=_multiply_inputs(block.attention_output, leaving),
        norm2=_divide_norm(block.norm2, widening),
        mlp_up=_multiply_inputs(block.mlp_up, widening),
    )


def _largest(samples: Mapping[str, SiteSamples], sites: list[str]) -> npt.NDArray[np.floating]:
    """Return the largest magnitude (width,) of each channel over products that read the same activations."""
    largest: npt.NDArray[np.floating] = np.max(
        [np.maximum(-samples[site].low, samples[site].high) for site in sites], axis=0
    )
    return largest


def _divisors(largest: npt.NDArray[np.floating], weight: Array) -> Array:
    """Return largest|x|^a / largest|W|^(1 - a) for each channel (the paper's equation 4), their geometric mean 1."""
    weights = np.abs(weight).max(axis=1)
    exponents = _SHARE * np.log(np.maximum(largest, _SMALLEST)) - (1 - _SHARE) * np.log(np.maximum(weights, _SMALLEST))
    exponents = np.clip(exponents - exponents.mean(), -np.log(_REACH), np.log(_REACH))
    divisors: Array = np.exp(exponents).astype(np.float32)
    return divisors


def _divide_norm(norm: LayerNorm, divisors: Array) -> LayerNorm:
    return dataclasses.replace(norm, gain=norm.gain / divisors, bias=norm.bias / divisors)


def _divide_outputs(linear: Linear, divisors: Array) -> Linear:
    return Linear(weight=linear.weight / divisors, bias=linear.bias / divisors)


def _multiply_inputs(linear: Linear, divisors: Array) -> Linear:
    return Linear(weight=linear.weight * divisors[:, None], bias=linear.bias)
