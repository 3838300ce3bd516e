"""Ways to run the towers of one checkpoint on a CPU: ours in each precision, optimum, PyTorch, OpenVINO.

Each contender is made from the same checkpoint folder. Knows nothing of what is measured or how.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import openvino
import torch
from transformers import CLIPModel

from bench.optimum_towers import export_towers
from bench.random_vit import CONTEXT, MEAN, STD
from clip_search_export.exporter import export
from clip_search_export.precision import PrecisionName

__all__ = ["CONTENDERS", "Contender", "Ids", "Pixels", "Work"]

Pixels = npt.NDArray[np.uint8]  # (batch, size, size, 3)
Ids = npt.NDArray[np.int64]  # (batch, length), the last one being the pooled token
Work = Callable[[], object]


class Contender(Protocol):
    """One way to run both towers; converting inputs to the contender's own format costs it nothing."""

    def images(self, pixels: Pixels) -> Work:
        """Return what embeds these pictures."""
        ...

    def texts(self, ids: Ids) -> Work:
        """Return what embeds these texts."""
        ...


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _pixel_values(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Return normalised pictures float32 (batch, 3, size, size)."""
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    normalised = (pixels.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


class _Ours:
    def __init__(self, checkpoint: Path, work: Path, precision: PrecisionName) -> None:
        path = work / f"{checkpoint.name}-{precision}"
        shutil.rmtree(path, ignore_errors=True)
        bundle = export(str(checkpoint), path, precision=precision)
        self._image, self._text = map(_session, bundle.model_files(precision))

    def images(self, pixels: Pixels) -> Work:
        return lambda: self._image.run(None, {"pixels": pixels})

    def texts(self, ids: Ids) -> Work:
        end = np.full(len(ids), ids.shape[1] - 1)
        return lambda: self._text.run(None, {"ids": ids, "end": end})


class _Optimum:
    """optimum's towers, cut out of its joint graph; texts padded to the context, as it ships."""

    def __init__(self, checkpoint: Path, work: Path) -> None:
        self._image, self._text = map(_session, export_towers(checkpoint, work / f"{checkpoint.name}-optimum"))

    def images(self, pixels: Pixels) -> Work:
        feed = {"pixel_values": _pixel_values(pixels)}
        return lambda: self._image.run(["image_embeds"], feed)

    def texts(self, ids: Ids) -> Work:
        padding = ((0, 0), (0, CONTEXT - ids.shape[1]))
        feed = {
            "input_ids": np.pad(ids, padding, constant_values=ids[0, -1]),
            "attention_mask": np.pad(np.ones_like(ids), padding),
        }
        return lambda: self._text.run(["text_embeds"], feed)


class _OpenVino:
    """optimum's graphs in OpenVINO with BF16 arithmetic; texts unpadded."""

    def __init__(self, checkpoint: Path, work: Path) -> None:
        towers = export_towers(checkpoint, work / f"{checkpoint.name}-optimum")
        core = openvino.Core()
        hints = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": os.cpu_count(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._image, self._text = (core.compile_model(core.read_model(tower), "CPU", hints) for tower in towers)

    def images(self, pixels: Pixels) -> Work:
        feed = {"pixel_values": _pixel_values(pixels)}
        return lambda: self._image(feed)

    def texts(self, ids: Ids) -> Work:
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return lambda: self._text(feed)


class _PyTorch:
    def __init__(self, checkpoint: Path, dtype: torch.dtype) -> None:
        torch.set_num_threads(os.cpu_count() or 1)
        self._model = CLIPModel.from_pretrained(checkpoint, dtype=dtype).eval()
        self._dtype = dtype

    def images(self, pixels: Pixels) -> Work:
        values = torch.from_numpy(_pixel_values(pixels)).to(self._dtype)
        return torch.inference_mode()(lambda: self._model.get_image_features(pixel_values=values))

    def texts(self, ids: Ids) -> Work:
        tensor = torch.from_numpy(ids)
        return torch.inference_mode()(lambda: self._model.get_text_features(input_ids=tensor))


CONTENDERS: Mapping[str, Callable[[Path, Path], Contender]] = {
    "clip-search fp32": lambda checkpoint, work: _Ours(checkpoint, work, "fp32"),
    "clip-search fp16": lambda checkpoint, work: _Ours(checkpoint, work, "fp16"),
    "optimum": _Optimum,
    "PyTorch fp32": lambda checkpoint, _work: _PyTorch(checkpoint, torch.float32),
    "PyTorch bf16": lambda checkpoint, _work: _PyTorch(checkpoint, torch.bfloat16),
    "OpenVINO bf16": _OpenVino,
}
"""In the order of the table's columns."""
