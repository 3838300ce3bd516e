"""Ways to run the towers of one checkpoint on a CUDA device, and that device's limits; knows nothing of timing.

Ours runs in ONNX Runtime with inputs and outputs bound to memory of the device and, unless declined, every shape as a
CUDA graph; the peer is PyTorch in FP16 with torch.compile. Both start from inputs on the device and end with embeddings
in host memory.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch

from bench.towers.bundles import variants
from bench.towers.cases import Ids, Pixels
from bench.towers.contender import Contender, Embeddings, Makers, Work
from bench.towers.machine import Ceiling
from bench.towers.models import Model
from bench.towers.torch_contender import TorchTowers
from clip_search_server.bundle import Bundle

__all__ = ["cuda_ceiling", "cuda_contenders", "require_cuda"]

_SIDE = 8192
_BUFFER_BYTES = 1 << 32
_FP16_BYTES = 2
_FORMATS = ("fp32", "fp16")
"""The variants that are made for a GPU; 8-bit ones are for processors."""
_SHAPES_MAX = 64
"""torch.compile gives up beyond a number of shapes that is smaller by default."""


def require_cuda() -> None:
    """Check that PyTorch reaches a CUDA device.

    Raises:
        SystemExit: it does not; says what to look at.
    """
    if not torch.cuda.is_available():
        raise SystemExit(
            "--device cuda: PyTorch sees no CUDA device. Check nvidia-smi, and install PyTorch's CUDA build "
            f"(this is {torch.__version__})."
        )


def cuda_ceiling() -> Ceiling:
    """Return the device's limits in FP16: a large matrix product, and reading a buffer larger than its cache."""
    left = torch.randn(_SIDE, _SIDE, dtype=torch.float16, device="cuda")
    buffer = torch.ones(_BUFFER_BYTES // _FP16_BYTES, dtype=torch.float16, device="cuda")
    flops = 2.0 * _SIDE**3 / _shortest(lambda: left @ left)
    return Ceiling(flops, _BUFFER_BYTES / _shortest(buffer.max), _FP16_BYTES)


def cuda_contenders(
    checkpoint: Path, model: Model, _work: Path, bundles: Sequence[Bundle], *, graphs: bool = True
) -> Makers:
    """Return all contenders that run this checkpoint on a CUDA device."""
    files = variants(bundles)
    torch._dynamo.config.recompile_limit = _SHAPES_MAX  # noqa: SLF001 - where PyTorch documents it
    return {
        **{f"clip-search {name}": _maker(files[name], name, model, graphs) for name in _FORMATS},
        "PyTorch fp16": lambda: TorchTowers(checkpoint, model, torch.float16, "cuda"),
        "PyTorch fp16 compiled": lambda: TorchTowers(checkpoint, model, torch.float16, "cuda", compiled=True),
    }


def _maker(files: tuple[Path, Path], name: str, model: Model, graphs: bool) -> Callable[[], Contender]:  # noqa: FBT001
    return lambda: _Ours(files, name, model, graphs=graphs)


class _Ours:
    """One variant of a bundle, its inputs and its output bound to the device."""

    def __init__(self, files: tuple[Path, Path], name: str, model: Model, *, graphs: bool) -> None:
        self.number_format = name
        self._dim, self._graphs, self._numbers = model.embedding_dim, graphs, itertools.count(1)
        # The exhaustive search for convolutions takes half a second a shape and finds no more.
        options = {"enable_cuda_graph": str(int(graphs)), "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
        providers = [("CUDAExecutionProvider", options)]
        self._image, self._text = (ort.InferenceSession(path, providers=providers) for path in files)

    def images(self, pixels: Pixels) -> Work:
        return self._bound(self._image, {"pixels": pixels})

    def texts(self, ids: Ids) -> Work:
        return self._bound(self._text, {"ids": ids, "end": np.full(len(ids), ids.shape[1] - 1)})

    def _bound(self, session: ort.InferenceSession, feed: dict[str, npt.NDArray[np.generic]]) -> Work:
        """Return a run of `feed` from fixed places; each gets a CUDA graph of its own, made by its first run."""
        batch = len(next(iter(feed.values())))
        binding, options = session.io_binding(), ort.RunOptions()
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", str(next(self._numbers)))
        inputs = {name: ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0) for name, array in feed.items()}
        output = ort.OrtValue.ortvalue_from_shape_and_type((batch, self._dim), np.float32, "cuda", 0)
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("embedding", output)

        def run() -> Embeddings:
            session.run_with_iobinding(binding, options)
            return output.numpy()

        return run


def _shortest(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of several runs."""
    seconds = []
    for _ in range(8):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
