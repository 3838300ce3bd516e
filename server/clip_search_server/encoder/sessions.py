"""Runs a bundle's two towers with ONNX Runtime; knows nothing of decoding, tokenizing or queues.

CUDA is used when the runtime offers it and the operator did not ask for the processor; which provider runs, and why, is
part of `Device` and logged at start-up. A request for CUDA that cannot be met is an error, never a silent fall back.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from clip_search_server.bundle import Bundle
from clip_search_server.encoder.tokens import Tokens
from clip_search_server.errors import BundleError, FailedPreconditionError

__all__ = [
    "CPU",
    "Device",
    "DeviceChoice",
    "ImageTower",
    "OrtImageTower",
    "OrtTextTower",
    "TextTower",
    "choose_device",
    "core_count",
]

CPU: Final = "CPUExecutionProvider"
_CUDA: Final = "CUDAExecutionProvider"

DeviceChoice = Literal["auto", "cuda", "cpu"]


class ImageTower(Protocol):
    """Turns preprocessed pictures into unit vectors."""

    def run(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Map (batch, size, size, 3) to unit vectors (batch, dim)."""


class TextTower(Protocol):
    """Turns tokenized texts into unit vectors."""

    def run(self, texts: list[Tokens]) -> npt.NDArray[np.float32]:
        """Map texts of possibly different lengths to unit vectors (len(texts), dim)."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where the towers run and why."""

    provider: str
    name: str
    reason: str


def choose_device(choice: DeviceChoice) -> Device:
    """Pick the execution provider for `choice`.

    Raises:
        FailedPreconditionError: CUDA was asked for and the installed runtime has none.
    """
    available = ort.get_available_providers()
    if choice != "cpu" and _CUDA in available:
        return Device(_CUDA, "cuda:0", "the runtime offers CUDA")
    if choice == "cuda":
        raise FailedPreconditionError(
            "--device cuda: the installed ONNX Runtime has no CUDA provider "
            f"(it has {', '.join(available)}). Install the GPU build with pip uninstall onnxruntime, then "
            "pip install 'clip-search[server-gpu]', or start with --device cpu."
        )
    reason = "--device cpu" if choice == "cpu" else "the runtime offers no CUDA"
    return Device(CPU, "cpu", reason)


def _open_session(path: Path, device: Device, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Waiting threads that spin would take the processor away from picture decoding.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Older x86 processors add products of bytes in 16 bits, which overflow; this keeps the runtime from using that.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = ort.InferenceSession(path, options, providers=[device.provider])
    except Exception as error:  # The runtime raises classes of its own that share no public base.
        raise BundleError(f"{path} cannot be loaded by ONNX Runtime {ort.__version__}: {error}") from error
    if session.get_providers()[0] != device.provider:
        raise FailedPreconditionError(
            f"{device.provider} was chosen ({device.reason}) but ONNX Runtime fell back to "
            f"{session.get_providers()[0]}: its libraries cannot be loaded. Start with --device cpu to run without it."
        )
    return session


class OrtImageTower:
    """The image graph of a bundle in an ONNX Runtime session."""

    def __init__(self, bundle: Bundle, precision: str, device: Device, *, threads: int = 0) -> None:
        """Load the graph; `threads` 0 means one a core."""
        self._session = _open_session(bundle.model_files(precision)[0], device, threads or core_count())

    def run(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Map (batch, size, size, 3) to unit vectors (batch, dim)."""
        (embedding,) = self._session.run(["embedding"], {"pixels": pixels})
        return np.asarray(embedding, dtype=np.float32)


class OrtTextTower:
    """The text graph of a bundle in an ONNX Runtime session."""

    def __init__(self, bundle: Bundle, precision: str, device: Device, *, threads: int = 0) -> None:
        """Load the graph; `threads` 0 means one a core."""
        self._session = _open_session(bundle.model_files(precision)[1], device, threads or core_count())
        self._pad_token_id = bundle.manifest.pad_token_id

    def run(self, texts: list[Tokens]) -> npt.NDArray[np.float32]:
        """Map texts to unit vectors (len(texts), dim).

        Shorter texts are padded behind their end token. In a causal tower no earlier token sees the padding; towers
        that do see it get texts that the tokenizer has padded to one length already.
        """
        length = max(len(text.ids) for text in texts)
        ids = np.full((len(texts), length), self._pad_token_id, dtype=np.int64)  # (batch, length)
        for row, text in enumerate(texts):
            ids[row, : len(text.ids)] = text.ids
        end = np.array([text.end for text in texts], dtype=np.int64)  # (batch,)
        (embedding,) = self._session.run(["embedding"], {"ids": ids, "end": end})
        return np.asarray(embedding, dtype=np.float32)


def core_count() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0))
