"""A small typed builder over ONNX: values know their element type, constants know their precision.

Knows nothing of towers and of how products are quantized. Two rules are kept here so that tower modules need not think
of them:

- A weight is stored in the precision's format, or in FP32 where its values leave FP16's range.
- An operator computes in the precision's arithmetic, or in FP32 if one of its weights had to stay in FP32; its other
  inputs are cast up and its results cast back.

Constants above `_INLINE_BYTES_MAX` go to an external data file beside the graph, in order of creation and aligned, so
that equal inputs give equal files and the graph itself stays small whatever the size of the model.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto, helper, numpy_helper

from clip_search_export.precision import Precision, store
from clip_search_export.quantization.schemes import FLOAT, Plan

__all__ = ["DATA_SUFFIX", "MICROSOFT", "ONNX_OPSET", "PROBE", "GraphBuilder", "Value"]

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's fused operators."""

DATA_SUFFIX = ".data"
"""What is added to a graph's name for the file of its large constants."""

PROBE = "probe:"
"""How the names of the outputs for calibration begin."""

ONNX_OPSET = 20
"""The version of ONNX's own operators that graphs are of."""

_MICROSOFT_OPSET = 1
_IR_VERSION = 10
_INLINE_BYTES_MAX = 1024
# Files are mapped by page; small tensors are packed at a cache line so that many of them do not waste a page each.
_PAGE_BYTES = 4096
_LINE_BYTES = 64

_ELEMENT_OF = {
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.bool_): TensorProto.BOOL,
}


@dataclass(frozen=True)
class Value:
    """A tensor in the graph."""

    name: str
    dtype: np.dtype[Any]


class GraphBuilder:
    """Collects nodes and constants of one graph, then writes it.

    Args:
        name: of the graph.
        precision: of its weights and arithmetic.
        plan: which products compute in 8 bits, and how.
        probing: whether every probed value becomes one more output, for calibration.
    """

    def __init__(self, name: str, precision: Precision, *, plan: Plan = FLOAT, probing: bool = False) -> None:
        self.precision = precision
        self.plan = plan
        #: The weight of each product or convolution by its full name, whatever it is quantized to.
        self.products: dict[str, npt.NDArray[np.floating]] = {}
        self._probing = probing
        self._name = name
        self._scopes: list[str] = []
        self._names: set[str] = set()
        self._nodes: list[NodeProto] = []
        self._constants: list[tuple[str, npt.NDArray[Any]]] = []
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []

    @property
    def arithmetic(self) -> np.dtype[Any]:
        """The element type that activations have."""
        return np.dtype(self.precision.arithmetic)

    @contextmanager
    def scope(self, *parts: str | int) -> Iterator[None]:
        """Prefix the names given inside with `parts`, joined by dots."""
        self._scopes.append(".".join(map(str, parts)))
        try:
            yield
        finally:
            self._scopes.pop()

    def full_name(self, name: str) -> str:
        """Return `name` with the scopes before it."""
        return ".".join([*self._scopes, name])

    def probe(self, name: str, value: Value) -> None:
        """Make `value` an output called `name`, in FP32 and of any shape, if the graph is for calibration."""
        if self._probing:
            wide = self.cast(value, np.float32)
            self._nodes.append(helper.make_node("Identity", [wide.name], [f"{PROBE}{name}"], name=f"{PROBE}{name}"))
            self._outputs.append(helper.make_tensor_value_info(f"{PROBE}{name}", TensorProto.FLOAT, None))

    def input(self, name: str, dtype: type[np.generic], shape: Sequence[str | int]) -> Value:
        """Declare an input of the graph; strings in `shape` are dynamic axes."""
        value = Value(name, np.dtype(dtype))
        self._inputs.append(helper.make_tensor_value_info(name, _ELEMENT_OF[value.dtype], shape))
        self._names.add(name)
        return value

    def output(self, value: Value, name: str, shape: Sequence[str | int]) -> None:
        """Declare `value` an output of the graph under `name`."""
        self._nodes.append(helper.make_node("Identity", [value.name], [name], name=f"{name}.identity"))
        self._outputs.append(helper.make_tensor_value_info(name, _ELEMENT_OF[value.dtype], shape))

    def weight(self, name: str, array: npt.NDArray[np.floating]) -> Value:
        """Add a weight, stored as the precision allows and ready for the precision's arithmetic."""
        stored = store(array, self.precision)
        value = self._constant(name, stored)
        # Stored narrower than computed: the runtime folds this cast when it loads the graph.
        return self.cast(value, np.float32) if self.arithmetic.itemsize > stored.dtype.itemsize else value

    def stored(self, array: npt.NDArray[np.floating]) -> npt.NDArray[np.float16 | np.float32]:
        """Return `array` in the format in which the precision stores it."""
        return store(array, self.precision)

    def exact(self, name: str, array: npt.NDArray[Any]) -> Value:
        """Add a constant in the type that it has."""
        return self._constant(name, np.asarray(array, order="C"))  # keeps a scalar one

    def integers(self, name: str, values: Sequence[int]) -> Value:
        """Add a small list of int64: a shape, axes or bounds."""
        return self._constant(name, np.array(values, dtype=np.int64))

    def cast(self, value: Value, dtype: type[np.generic] | np.dtype[Any]) -> Value:
        """Convert `value` unless it has the type already."""
        target = np.dtype(dtype)
        if value.dtype == target:
            return value
        return self.operator("Cast", [value], name="cast", dtype=target, to=_ELEMENT_OF[target])

    def operator(
        self,
        kind: str,
        inputs: Sequence[Value | None],
        *,
        name: str,
        domain: str = "",
        dtype: type[np.generic] | np.dtype[Any] | None = None,
        **attributes: Any,  # noqa: ANN401 - ONNX attributes are of many types.
    ) -> Value:
        """Add a node with one output; its type is `dtype`, or that of its first input."""
        (result,) = self._node(kind, inputs, (name,), domain=domain, attributes=attributes, dtype=dtype)
        return result

    def compute(
        self,
        kind: str,
        inputs: Sequence[Value | None],
        *,
        name: str,
        domain: str = "",
        **attributes: Any,  # noqa: ANN401 - as above.
    ) -> Value:
        """Add a floating-point node with one output that computes as the module's docstring says."""
        return self.compute_many(kind, inputs, names=(name,), domain=domain, **attributes)[0]

    def compute_many(
        self,
        kind: str,
        inputs: Sequence[Value | None],
        *,
        names: Sequence[str],
        domain: str = "",
        **attributes: Any,  # noqa: ANN401 - as above.
    ) -> tuple[Value, ...]:
        """Add a floating-point node with several outputs; an empty name leaves that output out."""
        floating = [value.dtype for value in inputs if value is not None and value.dtype.kind == "f"]
        dtype = max(floating, key=lambda candidate: candidate.itemsize)
        # Masks and lengths stay integers.
        cast = [self.cast(value, dtype) if value is not None and value.dtype.kind == "f" else value for value in inputs]
        results = self._node(kind, cast, names, domain=domain, attributes=attributes, dtype=dtype)
        return tuple(self.cast(result, self.arithmetic) for result in results)

    def graft(
        self,
        nodes: Iterable[NodeProto],
        constants: Iterable[TensorProto],
        inputs: Mapping[str, Value],
        output: str,
    ) -> Value:
        """Add a part of another graph of ONNX's operators at `ONNX_OPSET`, which computes in FP32.

        Large weights are stored as the precision allows and cast before use; all else is taken over as it is.

        Args:
            nodes: each behind those that it needs, with no graph inside any.
            constants: what they need beside each other and `inputs`.
            inputs: their names for values that are in this graph.
            output: their name of the result, which is float32.
        """
        if self.arithmetic != np.float32:
            raise ValueError("a foreign graph computes in FP32. This is a bug.")
        names = {name: value.name for name, value in inputs.items()}
        for tensor in constants:
            array = numpy_helper.to_array(tensor)
            large = array.dtype == np.float32 and array.nbytes > _INLINE_BYTES_MAX
            # Small ones may be an epsilon or a mask's bound, which must not be rounded.
            value = self.weight(tensor.name, array) if large else self.exact(tensor.name, array)
            names[tensor.name] = value.name
        for node in nodes:
            copy = NodeProto()
            copy.CopyFrom(node)
            del copy.input[:], copy.output[:]
            copy.input.extend(names[name] if name else "" for name in node.input)
            names.update({name: self._unique_name(name) for name in node.output if name})
            copy.output.extend(names[name] if name else "" for name in node.output)
            self._nodes.append(copy)
        return Value(names[output], np.dtype(np.float32))

    def save(self, path: Path) -> None:
        """Write the graph to `path` and its large constants to `path` with `DATA_SUFFIX` added."""
        initializers = _write_constants(self._constants, path.with_name(path.name + DATA_SUFFIX))
        graph: GraphProto = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, initializers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", ONNX_OPSET), helper.make_opsetid(MICROSOFT, _MICROSOFT_OPSET)],
            ir_version=_IR_VERSION,
            producer_name="clip-search",
        )
        path.write_bytes(model.SerializeToString(deterministic=True))

    def _constant(self, name: str, array: npt.NDArray[Any]) -> Value:
        unique = self._unique_name(name)
        self._constants.append((unique, array))
        return Value(unique, array.dtype)

    def _node(
        self,
        kind: str,
        inputs: Sequence[Value | None],
        names: Sequence[str],
        *,
        domain: str,
        attributes: dict[str, Any],
        dtype: type[np.generic] | np.dtype[Any] | None,
    ) -> tuple[Value, ...]:
        outputs = [self._unique_name(name) if name else "" for name in names]
        sources = ["" if value is None else value.name for value in inputs]
        self._nodes.append(helper.make_node(kind, sources, outputs, name=outputs[0], domain=domain, **attributes))
        first = inputs[0]
        if dtype is None and first is None:
            raise ValueError(f"{kind} has neither a type nor a first input. This is a bug.")
        element = np.dtype(dtype) if dtype is not None else first.dtype  # type: ignore[union-attr]
        return tuple(Value(output, element) for output in outputs if output)

    def _unique_name(self, name: str) -> str:
        full = self.full_name(name)
        candidates = itertools.chain([full], (f"{full}.{number}" for number in itertools.count(2)))
        unique = next(candidate for candidate in candidates if candidate not in self._names)
        self._names.add(unique)
        return unique


def _write_constants(constants: Sequence[tuple[str, npt.NDArray[Any]]], path: Path) -> list[TensorProto]:
    tensors = []
    with path.open("wb") as file:
        for name, array in constants:
            tensor = TensorProto(name=name, data_type=_ELEMENT_OF[array.dtype], dims=array.shape)
            if array.nbytes <= _INLINE_BYTES_MAX:
                tensor.raw_data = array.tobytes()
            else:
                alignment = _PAGE_BYTES if array.nbytes >= _PAGE_BYTES else _LINE_BYTES
                file.write(b"\0" * (-file.tell() % alignment))
                _refer(tensor, path.name, offset=file.tell(), length=array.nbytes)
                file.write(array.data)
            tensors.append(tensor)
    return tensors


def _refer(tensor: TensorProto, location: str, *, offset: int, length: int) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.append(StringStringEntryProto(key=key, value=value))
