"""What a processor can do at most, measured: matrix products and memory; knows nothing of models.

A tower's work can be no faster than its arithmetic at the rate of a large matrix product, nor than its weights can be
read from memory. The larger of both times is its ceiling (the roofline of Williams, Waterman and Patterson, 2009).
Weights that fit into the cache may beat it.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from bench.towers.loads import Load

__all__ = ["Bound", "Ceiling", "cpu_session", "fp32_flops", "int8_ops", "memory_bytes"]

Bound = Literal["arithmetic", "memory"]

_SIDE = 2048
_REPEATS = 8
_BUFFER_BYTES = 1 << 29
"""Larger than any cache that processors of today have."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The limits that one number format is under, per second."""

    flops: float
    memory_bytes: float
    weight_bytes: int

    def seconds(self, load: Load) -> float:
        """Return the least time that `load` can take."""
        return max(self._arithmetic(load), self._memory(load))

    def bound(self, load: Load) -> Bound:
        """Return which of both limits it is."""
        return "arithmetic" if self._arithmetic(load) >= self._memory(load) else "memory"

    def _arithmetic(self, load: Load) -> float:
        return load.flops / self.flops

    def _memory(self, load: Load) -> float:
        return load.weights * self.weight_bytes / self.memory_bytes


def cpu_session(model: str | bytes) -> ort.InferenceSession:
    """Open a graph, a path or its bytes, with one thread a processor."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.log_severity_level = 3  # errors only: the runtime warns of optimizations it skips
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def fp32_flops(side: int = _SIDE) -> float:
    """Return the operations a second of a product of two FP32 matrices in NumPy's BLAS."""
    left, right = np.random.default_rng(0).standard_normal((2, side, side), dtype=np.float32)
    return 2.0 * side**3 / _shortest(lambda: left @ right)


def int8_ops(side: int = _SIDE) -> float:
    """Return the operations a second of a product of U8 and S8 matrices in ONNX Runtime.

    Every processor runs it; those with instructions for it (VNNI, AMX) run it several times faster than FP32.
    """
    random = np.random.default_rng(0)
    right = numpy_helper.from_array(random.integers(-128, 128, (side, side), dtype=np.int8), "right")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", TensorProto.UINT8, [side, side])],
        [helper.make_tensor_value_info("product", TensorProto.INT32, [side, side])],
        [right],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = cpu_session(model.SerializeToString())
    left = random.integers(0, 256, (side, side), dtype=np.uint8)
    return 2.0 * side**3 / _shortest(lambda: session.run(None, {"left": left}))


def memory_bytes(buffer_bytes: int = _BUFFER_BYTES) -> float:
    """Return the bytes a second that are read from memory by a product of a large FP32 matrix and a vector.

    That is how a single short text reads weights: each once, all processors at work.
    """
    columns = 4096
    matrix = np.ones((max(1, buffer_bytes // (4 * columns)), columns), np.float32)
    vector = np.ones(columns, np.float32)
    return matrix.nbytes / _shortest(lambda: matrix @ vector)


def _shortest(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of several runs."""
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
