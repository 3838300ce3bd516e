"""Cuts a traced graph of a whole dual encoder into its two towers; knows nothing of PyTorch or of bundles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from clip_search_export.errors import UnsupportedError
from clip_search_export.graph import ONNX_OPSET

__all__ = ["Tower", "cut_tower", "read_joint_graph"]

_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


@dataclass(frozen=True)
class Tower:
    """The part of a graph that one of its outputs needs."""

    nodes: Sequence[NodeProto]
    constants: Sequence[TensorProto]
    inputs: tuple[str, ...]
    """The inputs of the whole graph that the part reads, in the graph's order."""
    output: str


def read_joint_graph(path: Path) -> onnx.ModelProto:
    """Read a traced graph with its weights, wherever beside it they are.

    Raises:
        UnsupportedError: it has operators other than ONNX's own of the version that is written, or nested graphs.
    """
    model = onnx.load(path)
    versions = {opset.domain: opset.version for opset in model.opset_import}
    domains = {node.domain for node in model.graph.node}
    if versions.get("") != ONNX_OPSET or domains - {"", "ai.onnx"} or model.functions:
        raise UnsupportedError(f"the traced graph has operators {versions}; those of ONNX {ONNX_OPSET} were expected.")
    for node in model.graph.node:
        if any(attribute.type in _SUBGRAPHS for attribute in node.attribute):
            raise UnsupportedError(f"the traced graph has the node {node.op_type}, whose branches cannot be moved.")
    return model


def cut_tower(model: onnx.ModelProto, output: str) -> Tower:
    """Return the part of a graph that its output named `output` needs.

    Raises:
        UnsupportedError: the graph has no such output: it is no dual encoder.
    """
    graph = model.graph
    if output not in {value.name for value in graph.output}:
        found = ", ".join(value.name for value in graph.output)
        raise UnsupportedError(f"the traced graph has no output {output}, only {found}: it is no dual encoder.")
    needed, nodes = {output}, []
    # Nodes are sorted: whatever needs a value comes behind what makes it.
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            nodes.append(node)
            needed.update(name for name in node.input if name)
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    inputs = tuple(value.name for value in graph.input if value.name in needed)
    return Tower(nodes[::-1], constants, inputs, output)
