"""Ways to run the towers of one checkpoint on a processor: ours in each variant, traced graphs, PyTorch, OpenVINO.

Each contender is made from the same checkpoint folder. Knows nothing of what is measured or how.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import openvino
import torch

from bench.towers import optimum_towers, torch_towers
from bench.towers.bundles import quantize, variants
from bench.towers.cases import Ids, Pixels, normalise
from bench.towers.contender import Contender, Makers, Work
from bench.towers.machine import cpu_session
from bench.towers.models import Model
from bench.towers.torch_contender import TorchTowers
from clip_search_server.bundle import INT8, Bundle

__all__ = ["cpu_contenders"]


def cpu_contenders(checkpoint: Path, model: Model, work: Path, bundles: Sequence[Bundle]) -> Makers:
    """Return all contenders that run this checkpoint on a processor."""
    torch.set_num_threads(os.cpu_count() or 1)
    by_torch = torch_towers.is_open_clip(checkpoint)
    tracer, exported = ("traced", torch_towers.export_towers) if by_torch else ("optimum", optimum_towers.export_towers)
    traced = work / f"{checkpoint.name}-{tracer}"
    ours = variants(bundles)
    ours.setdefault(INT8, quantize(checkpoint, work))
    return {
        **{f"clip-search {name}": _maker(files, name) for name, files in ours.items()},
        tracer: lambda: _Traced(exported(checkpoint, traced), model),
        "PyTorch fp32": lambda: TorchTowers(checkpoint, model, torch.float32),
        "PyTorch bf16": lambda: TorchTowers(checkpoint, model, torch.bfloat16),
        "OpenVINO bf16": lambda: _OpenVino(exported(checkpoint, traced), model),
    }


def _maker(files: tuple[Path, Path], name: str) -> Callable[[], Contender]:
    return lambda: _Ours(files, name)


class _Ours:
    """One variant of a bundle; ONNX Runtime computes FP16 files in FP32 on a processor."""

    def __init__(self, files: tuple[Path, Path], name: str) -> None:
        self.number_format = name
        self._image, self._text = (cpu_session(str(path)) for path in files)

    def images(self, pixels: Pixels) -> Work:
        return lambda: self._image.run(None, {"pixels": pixels})[0]

    def texts(self, ids: Ids) -> Work:
        end = np.full(len(ids), ids.shape[1] - 1)
        return lambda: self._text.run(None, {"ids": ids, "end": end})[0]


class _Traced:
    """Graphs traced from PyTorch in ONNX Runtime, FP32; texts padded to the context, as such exports ship."""

    number_format = "fp32"

    def __init__(self, towers: tuple[Path, Path], model: Model) -> None:
        self._model = model
        self._image, self._text = (cpu_session(str(path)) for path in towers)

    def images(self, pixels: Pixels) -> Work:
        feed = {"pixel_values": normalise(pixels, self._model)}
        return lambda: self._image.run(None, feed)[0]

    def texts(self, ids: Ids) -> Work:
        padding = ((0, 0), (0, self._model.context - ids.shape[1]))
        padded = np.pad(ids, padding, constant_values=self._model.pad_id)
        known = (value.name for value in self._text.get_inputs())
        feed = _only(known, {"input_ids": padded, "attention_mask": np.pad(np.ones_like(ids), padding)})
        return lambda: self._text.run(None, feed)[0]


class _OpenVino:
    """The traced graphs in OpenVINO with BF16 arithmetic; texts unpadded."""

    number_format = "bf16"

    def __init__(self, towers: tuple[Path, Path], model: Model) -> None:
        self._model = model
        core = openvino.Core()
        hints = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": os.cpu_count(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._image, self._text = (core.compile_model(core.read_model(tower), "CPU", hints) for tower in towers)

    def images(self, pixels: Pixels) -> Work:
        feed = {"pixel_values": normalise(pixels, self._model)}
        return lambda: self._image(feed)[0]

    def texts(self, ids: Ids) -> Work:
        known = (value.any_name for value in self._text.inputs)
        feed = _only(known, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        return lambda: self._text(feed)[0]


def _only(names: Iterable[str], feed: Mapping[str, Ids]) -> dict[str, Ids]:
    """Return what a graph takes of `feed`: SigLIP has no attention mask."""
    return {name: feed[name] for name in names}
