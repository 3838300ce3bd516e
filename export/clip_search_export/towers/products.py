"""Matrix products and convolutions as the plan of the graph wants them: in floating point or in 8 bits.

Each has a name within the graph's scopes, by which the plan decides and calibration reports. ONNX Runtime's 8-bit
operators multiply unsigned activations by signed weights and scale each output back in the same pass.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from clip_search_export.graph import MICROSOFT, GraphBuilder, Value
from clip_search_export.quantization.schemes import (
    MIDDLE,
    PER_TOKEN_LEVELS,
    Convolved,
    PerToken,
    Static,
    quantize_weight,
)
from clip_search_export.weights import Array

__all__ = ["add_byte_product", "add_convolution", "add_product", "is_quantized", "note_product"]

_MAGNITUDE_MIN = 1e-12
"""Smallest magnitude that is divided by: a token of zeros stays one."""


def is_quantized(graph: GraphBuilder, name: str) -> bool:
    """Return whether the product `name` computes in 8 bits."""
    return graph.full_name(name) in graph.plan


def note_product(graph: GraphBuilder, x: Value, weight: npt.NDArray[np.floating], name: str) -> str:
    """Tell the graph of a product of `x` and `weight`, whichever node computes it; return its full name."""
    site = graph.full_name(name)
    graph.products[site] = weight
    graph.probe(site, x)
    return site


def add_product(graph: GraphBuilder, x: Value, weight: Array, name: str) -> Value:
    """Multiply (..., inputs) by a weight (inputs, outputs)."""
    site = note_product(graph, x, weight, name)
    scheme = graph.plan.get(site)
    if scheme is None:
        return graph.compute("MatMul", [x, graph.weight(f"{name}.weight", weight)], name=name)
    if isinstance(scheme, Static):
        with graph.scope(name):
            return _add_integer_product(graph, _add_quantized(graph, x, scheme), weight, scheme)
    if isinstance(scheme, PerToken):
        with graph.scope(name):
            return _add_product_per_token(graph, x, weight)
    raise TypeError(f"{site} is a product, not a convolution. This is a bug.")


def add_byte_product(graph: GraphBuilder, x: Value, weight: Array, name: str) -> Value:
    """Multiply bytes (..., inputs), that stand for (byte - 128) / 128, by a weight (inputs, outputs).

    They need no quantization: in 8 bits only the weights are rounded.
    """
    graph.products[graph.full_name(name)] = weight
    if is_quantized(graph, name):
        with graph.scope(name):
            return _add_integer_product(graph, x, weight, Static(1 / MIDDLE, MIDDLE))
    x = graph.cast(x, graph.arithmetic)
    centre = graph.exact("centre", np.array(MIDDLE, dtype=graph.arithmetic))
    scale = graph.exact("scale", np.array(1 / MIDDLE, dtype=graph.arithmetic))
    x = graph.operator("Mul", [graph.operator("Sub", [x, centre], name="shifted"), scale], name="centred")
    return graph.compute("MatMul", [x, graph.weight(f"{name}.weight", weight)], name=name)


def add_convolution(
    graph: GraphBuilder,
    x: Value,
    weight: npt.NDArray[np.float64],
    bias: npt.NDArray[np.float64],
    name: str,
    *,
    stride: int,
    relu: bool,
) -> Value:
    """Convolve (batch, channels, height, width) by a weight (outputs, channels, kernel, kernel), then perhaps ReLU."""
    site = note_product(graph, x, weight, name)
    scheme = graph.plan.get(site)
    with graph.scope(name):
        if scheme is None:
            constants = [
                graph.weight("weight", weight.astype(np.float32)),
                graph.weight("bias", bias.astype(np.float32)),
            ]
            y = graph.compute("Conv", [x, *constants], name="convolved", **_window(weight, stride))
            y = graph.compute("Relu", [y], name="relu") if relu else y
        elif isinstance(scheme, Convolved):
            y = _add_integer_convolution(graph, x, weight, bias, scheme, stride)
        else:
            raise TypeError(f"{site} is a convolution, not a product. This is a bug.")
    graph.probe(f"{site}.output", y)
    return y


def _add_quantized(graph: GraphBuilder, x: Value, scheme: Static) -> Value:
    return graph.operator(
        "QuantizeLinear", [graph.cast(x, np.float32), *_range(graph, scheme)], name="bytes", dtype=np.uint8
    )


def _range(graph: GraphBuilder, scheme: Static) -> list[Value]:
    scale = graph.exact("scale", np.array(scheme.scale, dtype=np.float32))
    return [scale, graph.exact("zero_point", np.array(scheme.zero_point, dtype=np.uint8))]


def _add_integer_product(graph: GraphBuilder, x: Value, weight: Array, scheme: Static) -> Value:
    integers, scales = quantize_weight(weight, axis=1)
    scale, zero_point = _range(graph, scheme)
    constants = [graph.exact("weight", integers), scale, graph.exact("weight_scales", scales), zero_point]
    product = graph.operator(
        "MatMulIntegerToFloat", [x, *constants], name="product", domain=MICROSOFT, dtype=np.float32
    )
    return graph.cast(product, graph.arithmetic)


def _add_product_per_token(graph: GraphBuilder, x: Value, weight: Array) -> Value:
    magnitude = graph.operator("Abs", [graph.cast(x, np.float32)], name="magnitude")
    largest = graph.operator("ReduceMax", [magnitude, graph.integers("axis", [-1])], name="largest", keepdims=1)
    floor = graph.exact("magnitude_min", np.array(_MAGNITUDE_MIN, dtype=np.float32))
    largest = graph.operator("Max", [largest, floor], name="divisor")  # (..., 1)
    share = graph.exact("share", np.array(1 / PER_TOKEN_LEVELS, dtype=np.float32))
    scale = graph.operator("Mul", [largest, share], name="token_scale")
    steps = graph.operator("Div", [graph.cast(x, np.float32), scale], name="steps")
    unit = Static(1.0, MIDDLE)
    product = _add_integer_product(graph, _add_quantized(graph, steps, unit), weight, unit)
    return graph.operator("Mul", [product, scale], name="scaled")


def _add_integer_convolution(  # noqa: PLR0917 - as `add_convolution`
    graph: GraphBuilder,
    x: Value,
    weight: npt.NDArray[np.float64],
    bias: npt.NDArray[np.float64],
    scheme: Convolved,
    stride: int,
) -> Value:
    """Convolve in integers; an output range that begins at 0 does what a ReLU would."""
    integers, scales = quantize_weight(weight, axis=0)
    with graph.scope("output"):
        output_range = _range(graph, scheme.output)
    product_scales = scheme.input.scale * scales.astype(np.float64)
    inputs = [
        _add_quantized(graph, x, scheme.input),
        *_range(graph, scheme.input),
        graph.exact("weight", integers),
        graph.exact("weight_scales", scales),
        graph.exact("weight_zero_points", np.zeros(len(scales), dtype=np.int8)),
        *output_range,
        graph.exact("bias", np.round(bias / product_scales).astype(np.int32)),
    ]
    convolved = graph.operator("QLinearConv", inputs, name="convolved", dtype=np.uint8, **_window(weight, stride))
    scaled = graph.operator("DequantizeLinear", [convolved, *output_range], name="scaled", dtype=np.float32)
    return graph.cast(scaled, graph.arithmetic)


def _window(weight: npt.NDArray[np.float64], stride: int) -> dict[str, Any]:
    kernel = weight.shape[-1]
    return {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "pads": [kernel // 2] * 4}
