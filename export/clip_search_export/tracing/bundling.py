"""Makes a bundle of what tracing gave: two towers, how they are fed, and what they must give.

Knows nothing of PyTorch, of checkpoints or of how a graph is traced.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from clip_search_export.checkpoints.checkpoint import TOKENIZER_FILE
from clip_search_export.errors import UnsupportedError
from clip_search_export.hub_cache import Progress
from clip_search_export.inputs import TextInputs
from clip_search_export.parity import GATES, Embeddings, measure_parity, open_session, run_image, run_text
from clip_search_export.precision import FP16_STORED, FP32, Precision, PrecisionName
from clip_search_export.proving import IMAGE_FILE, TEXT_FILE, Proof, draft_manifest, prove, remove_graph, seal, stages
from clip_search_export.sources import LocalCheckpoint
from clip_search_export.tracing.contract import write_image_tower, write_text_tower
from clip_search_export.tracing.joint import Tower
from clip_search_server.bundle import Manifest

__all__ = ["TracedModel", "write_bundle"]

_NAME = "optimum"
_FORMATS: Final[dict[PrecisionName, Precision]] = {"fp32": FP32, "fp16": FP16_STORED}
_TRIMMED_ERROR_MAX = 1e-5
"""Largest difference, in any dimension of a unit vector, that the order of FP32 sums may make."""


class TracedModel(NamedTuple):
    """All that is asked of the model itself, which is no longer needed then."""

    settings: Manifest
    """As far as the model says it: not where it came from, nor whether texts may be trimmed."""
    tokenizer_json: str
    image: Tower
    text: Tower
    pixels: npt.NDArray[np.uint8]  # (pictures, size, size, 3)
    texts: TextInputs  # with the lengths that texts have without padding
    image_reference: Embeddings  # (pictures, dim)
    text_reference: Embeddings  # (texts, dim)
    reference: str
    """What the references were computed with."""
    packages: Sequence[str]
    """The distributions that traced the model."""


def write_bundle(
    folder: Path, local: LocalCheckpoint, traced: TracedModel, precision: PrecisionName, progress: Progress
) -> None:
    """Write the bundle of a traced model into `folder`, each tower proved against its reference.

    Raises:
        UnsupportedError: a tower asks for an input that is not known, or does not run.
        ParityError: a tower is beyond its gate; the folder is not to be published.
    """
    (folder / TOKENIZER_FILE).write_text(traced.tokenizer_json, encoding="utf-8")
    formats = {name: _FORMATS[name] for name in stages(precision)}
    image = _prove_image_tower(folder / IMAGE_FILE, traced, formats, progress)
    progress("comparing texts without padding and with it")
    trimmed = traced.settings.text_pooling != "last" and _leaves_padding_alone(folder / f"trial.{TEXT_FILE}", traced)
    settings = dataclasses.replace(traced.settings, trim_padding=trimmed)
    text = _prove_text_tower(folder / TEXT_FILE, traced, settings, formats, progress)
    progress("sealing the bundle")
    seal(folder, draft_manifest(settings, local, precision, _NAME, traced.packages), traced.reference, image, text)


def _prove_image_tower(
    path: Path, traced: TracedModel, formats: dict[PrecisionName, Precision], progress: Progress
) -> Proof:
    settings = traced.settings

    def author(path: Path, formats: Precision) -> None:
        write_image_tower(path, traced.image, settings.image_preprocessing, settings.embedding_dim, formats)

    def run(path: Path) -> list[Embeddings]:
        with _running("image"):
            return run_image(open_session(path), traced.pixels)

    return prove("image", path, traced.image_reference, formats, author, run, progress)


def _prove_text_tower(
    path: Path,
    traced: TracedModel,
    settings: Manifest,
    formats: dict[PrecisionName, Precision],
    progress: Progress,
) -> Proof:
    texts = traced.texts
    if not settings.trim_padding:
        texts = texts._replace(lengths=np.full_like(texts.lengths, settings.context_length))

    def author(path: Path, formats: Precision) -> None:
        _author_text_tower(path, traced.text, settings, formats)

    def run(path: Path) -> list[Embeddings]:
        with _running("text"):
            return run_text(open_session(path), texts)

    return prove("text", path, traced.text_reference, formats, author, run, progress)


def _author_text_tower(path: Path, tower: Tower, settings: Manifest, precision: Precision) -> None:
    write_text_tower(
        path,
        tower,
        context_length=None if settings.trim_padding else settings.context_length,
        pad_token_id=settings.pad_token_id,
        embedding_dim=settings.embedding_dim,
        precision=precision,
    )


def _leaves_padding_alone(path: Path, traced: TracedModel) -> bool:
    """Find out whether every text has the same embedding at its own length and padded to the context."""
    _author_text_tower(path, traced.text, dataclasses.replace(traced.settings, trim_padding=True), FP32)
    try:
        with _running("text"):
            alone, padded = run_text(open_session(path), traced.texts)
        same = measure_parity(padded, [alone], GATES["fp32"]).centred_cosine_min >= GATES["fp32"]
        return same and bool(np.abs(alone - padded).max() <= _TRIMMED_ERROR_MAX)
    except UnsupportedError:
        # A graph that takes one length alone; if it does not run at all, that is found out next.
        return False
    finally:
        remove_graph(path)


@contextmanager
def _running(tower: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # The runtime raises a type for each of its codes.
        reason = " ".join(str(error).split())
        raise UnsupportedError(f"the traced {tower} tower does not run in ONNX Runtime: {reason}") from error
