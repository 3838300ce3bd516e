"""CLIP's modified ResNet as a graph: from uint8 pixels to a unit-length embedding.

Batch normalization is folded into the convolution before it. The stem is padded with zeros that stand for the mean
colour, so the pixel's mean must be subtracted before the padding, in FP32; only the scale 1 / (255 std) is folded into
the first convolution. The attention pool computes the one query that is used, that of the mean.
"""

import numpy as np
import numpy.typing as npt

from clip_search_export.graph import MICROSOFT, GraphBuilder, Value
from clip_search_export.towers.layers import add_linear, add_unit_length
from clip_search_export.towers.products import add_convolution
from clip_search_export.weights import AttentionPool, Bottleneck, Convolution, ModifiedResNet
from clip_search_server.bundle import ImagePreprocessing

__all__ = ["add_modified_resnet", "fold_batch_norm"]

_WHITE = 255.0


def add_modified_resnet(
    graph: GraphBuilder, pixels: Value, tower: ModifiedResNet, preprocessing: ImagePreprocessing
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
    x = _add_stem(graph, pixels, tower, preprocessing)
    for stage_index, stage in enumerate(tower.stages):
        for block_index, block in enumerate(stage):
            with graph.scope("stages", stage_index, block_index):
                x = _add_bottleneck(graph, x, block)
    with graph.scope("pool"):
        x = _add_attention_pool(graph, x, tower.pool)
    return add_unit_length(graph, x)


def fold_batch_norm(convolution: Convolution) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the weight and bias of one convolution that does what the convolution and its normalization do."""
    norm = convolution.norm
    factor = norm.gain.astype(np.float64) / np.sqrt(norm.variance.astype(np.float64) + norm.epsilon)  # (outputs,)
    return convolution.weight * factor[:, None, None, None], norm.bias - norm.mean * factor


def _add_stem(graph: GraphBuilder, pixels: Value, tower: ModifiedResNet, preprocessing: ImagePreprocessing) -> Value:
    first, second, third = tower.stem
    with graph.scope("stem"):
        x = graph.operator("Transpose", [pixels], name="channels_first", perm=[0, 3, 1, 2])
        x = graph.cast(x, np.float32)
        mean = _WHITE * np.array(preprocessing.mean, dtype=np.float64)[None, :, None, None]
        x = graph.operator("Sub", [x, graph.exact("mean", mean.astype(np.float32))], name="shifted")
        x = graph.cast(x, graph.arithmetic)
        weight, bias = fold_batch_norm(first)
        weight /= (_WHITE * np.array(preprocessing.std))[:, None, None]
        x = add_convolution(graph, x, weight, bias, "conv1", stride=2, relu=True)
        x = _add_folded(graph, x, second, "conv2", relu=True)
        x = _add_folded(graph, x, third, "conv3", relu=True)
        return _add_average_pool(graph, x, 2)


def _add_bottleneck(graph: GraphBuilder, x: Value, block: Bottleneck) -> Value:
    h = _add_folded(graph, x, block.reduce, "reduce", relu=True)
    h = _add_folded(graph, h, block.spatial, "spatial", relu=True)
    h = _add_folded(graph, _add_average_pool(graph, h, block.stride), block.expand, "expand", relu=False)
    identity = x
    if block.downsample is not None:
        pooled = _add_average_pool(graph, x, block.stride)
        identity = _add_folded(graph, pooled, block.downsample, "downsample", relu=False)
    return _add_relu(graph, graph.compute("Add", [h, identity], name="sum"))


def _add_attention_pool(graph: GraphBuilder, x: Value, pool: AttentionPool) -> Value:
    width = pool.positions.shape[1]
    x = graph.operator("Reshape", [x, graph.integers("flat_shape", [0, width, -1])], name="flat")
    x = graph.operator("Transpose", [x], name="places", perm=[0, 2, 1])  # (batch, height * width, channels)
    axis = graph.integers("axis", [1])
    mean = graph.compute("ReduceMean", [x, axis], name="mean", keepdims=1)  # (batch, 1, channels)
    positions = pool.positions[None]
    mean = graph.compute("Add", [mean, graph.weight("mean_position", positions[:, :1])], name="mean_positioned")
    x = graph.compute("Add", [x, graph.weight("positions", positions[:, 1:])], name="positioned")
    x = graph.operator("Concat", [mean, x], name="tokens", axis=1)  # (batch, 1 + height * width, channels)
    projections = ((mean, pool.query, "query"), (x, pool.key, "key"), (x, pool.value, "value"))
    attended = graph.compute(
        "MultiHeadAttention",
        [add_linear(graph, source, linear, name) for source, linear, name in projections],
        name="attended",
        domain=MICROSOFT,
        num_heads=pool.heads,
    )  # (batch, 1, channels)
    attended = graph.operator("Squeeze", [attended, axis], name="pooled")
    return add_linear(graph, attended, pool.output, "output")  # (batch, dim)


def _add_folded(graph: GraphBuilder, x: Value, convolution: Convolution, name: str, *, relu: bool) -> Value:
    weight, bias = fold_batch_norm(convolution)
    return add_convolution(graph, x, weight, bias, name, stride=1, relu=relu)


def _add_relu(graph: GraphBuilder, x: Value) -> Value:
    return graph.compute("Relu", [x], name="relu")


def _add_average_pool(graph: GraphBuilder, x: Value, stride: int) -> Value:
    if stride == 1:
        return x
    return graph.compute("AveragePool", [x], name="pooled", kernel_shape=[stride] * 2, strides=[stride] * 2)
