"""Measures how far authored towers are from the reference, and refuses those beyond their gate.

Parity is the cosine of *centred* embeddings: the reference's mean over the inputs is subtracted from both sides.
Without centring, towers whose embeddings are nearly parallel, as those of random weights are, agree with anything. Each
tower is run in the ways a server runs it: alone and in a batch, texts trimmed and padded. Knows nothing of how graphs
are made.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from clip_search_export.errors import ParityError
from clip_search_export.inputs import TextInputs
from clip_search_export.precision import PrecisionName
from clip_search_server.bundle import TowerParity

__all__ = [
    "GATES",
    "PROVIDER",
    "REFERENCE",
    "SPREAD_MIN",
    "Embeddings",
    "check_gate",
    "measure_parity",
    "open_session",
    "run_image",
    "run_text",
]

GATES: Final[dict[PrecisionName, float]] = {"fp32": 0.99999, "fp16": 0.9995}
"""The smallest centred cosine that is published, for the worst of all inputs."""

SPREAD_MIN: Final = 1e-4
"""Shortest centred reference embedding that still measures something: FP32 noise of unit vectors is about 1e-7."""

PROVIDER: Final = "CPUExecutionProvider"
REFERENCE: Final = "NumPy float64"

_BATCH = 4

Embeddings = npt.NDArray[np.floating]  # (inputs, dim)


def open_session(path: Path) -> ort.InferenceSession:
    """Open a graph as the server would on a CPU."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: the runtime warns of optimizations it skips
    options.enable_cpu_mem_arena = False  # an arena grows by doubling, and the weights lie in it
    options.add_session_config_entry("session.x64quantprecision", "1")  # as the server: no products that overflow
    return ort.InferenceSession(path, options, providers=[PROVIDER])


def run_image(session: ort.InferenceSession, pixels: npt.NDArray[np.uint8]) -> list[Embeddings]:
    """Embed every picture alone, then in batches of several."""
    batches = range(0, len(pixels), _BATCH)
    alone = [session.run(None, {"pixels": picture[None]})[0] for picture in pixels]
    together = [session.run(None, {"pixels": pixels[start : start + _BATCH]})[0] for start in batches]
    return [np.concatenate(alone), np.concatenate(together)]


def run_text(session: ort.InferenceSession, inputs: TextInputs) -> list[Embeddings]:
    """Embed every text alone at its own length, then all together, padded."""
    alone = [
        session.run(None, {"ids": ids[None, :length], "end": end[None]})[0]
        for ids, length, end in zip(inputs.ids, inputs.lengths, inputs.ends, strict=True)
    ]
    together = session.run(None, {"ids": inputs.ids, "end": inputs.ends})[0]
    return [np.concatenate(alone), together]


def measure_parity(reference: Embeddings, runs: Sequence[Embeddings], gate: float) -> TowerParity:
    """Compare several runs of the same inputs with the reference.

    Raises:
        ParityError: the reference cannot tell the inputs apart, so that a comparison would mean nothing.
    """
    mean = reference.mean(axis=0)
    centred = reference - mean
    lengths = np.linalg.norm(centred, axis=1)
    if not lengths.min() >= SPREAD_MIN:
        raise ParityError(
            f"the reference embeddings of the test inputs are all but equal (spread {lengths.min():.1e}): the weights "
            "are not those of a working model, and nothing can be compared."
        )
    cosines = np.stack([_cosines(centred, run - mean) for run in runs])  # (runs, inputs)
    return TowerParity(
        inputs=len(reference),
        centred_cosine_min=float(cosines.min()),
        centred_cosine_mean=float(cosines.mean()),
        gate=gate,
        spread=float(lengths.min()),
    )


def check_gate(tower: str, parity: TowerParity) -> None:
    """Refuse a tower below its gate.

    Raises:
        ParityError: names the tower, its worst cosine and the gate.
    """
    # Written so that NaN does not pass.
    if not parity.centred_cosine_min >= parity.gate:
        raise ParityError(
            f"the {tower} tower disagrees with the reference: worst centred cosine {parity.centred_cosine_min:.6f}, "
            f"gate {parity.gate}. Nothing was written."
        )


def _cosines(left: Embeddings, right: Embeddings) -> npt.NDArray[np.floating]:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    # An embedding that equals the mean has no direction: it agrees with nothing.
    cosines: npt.NDArray[np.floating] = np.einsum("nd,nd->n", left, right) / np.where(norms > 0, norms, np.inf)
    return cosines
