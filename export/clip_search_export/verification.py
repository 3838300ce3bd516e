"""Proves that a bundle is whole and works: digests, both graphs, one input each; knows nothing of its making."""

from pathlib import Path

import numpy as np

from clip_search_export.errors import ExportError
from clip_search_export.inputs import make_image_inputs, make_text_inputs
from clip_search_export.parity import Embeddings, open_session, run_image, run_text
from clip_search_server.bundle import Bundle
from clip_search_server.encoder.tokens import Tokenizer

__all__ = ["VerificationError", "verify_bundle"]

_LENGTH_TOLERANCE = 1e-3
_SAME_MIN = 0.9999
"""Smallest cosine between the embeddings of one input run alone and in a batch, or trimmed and padded."""


class VerificationError(ExportError):
    """The files are intact, but a tower does not do what the bundle promises."""


def verify_bundle(path: Path) -> Bundle:
    """Check every digest of the bundle at `path`, then run both towers of every variant on synthetic inputs.

    Raises:
        BundleError: the bundle is missing or damaged.
        VerificationError: a graph does not load, or its embeddings are not of unit length and the promised dimension,
            or depend on what else is in the batch.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    tokenizer = Tokenizer.from_bundle(bundle)
    pixels = make_image_inputs(manifest.image_preprocessing)
    texts = make_text_inputs(tokenizer, manifest.context_length, manifest.pad_token_id)
    for precision in manifest.variants:
        image_path, text_path = bundle.model_files(precision)
        try:
            image_runs = run_image(open_session(image_path), pixels)
            text_runs = run_text(open_session(text_path), texts)
        except Exception as error:  # The runtime raises a type for each of its codes.
            raise VerificationError(f"{path}: the {precision} variant does not run: {error}") from error
        for tower, runs in ((image_path.name, image_runs), (text_path.name, text_runs)):
            _check_embeddings(f"{path / tower} ({precision})", runs, manifest.embedding_dim)
    return bundle


def _check_embeddings(name: str, runs: list[Embeddings], embedding_dim: int) -> None:
    for run in runs:
        if run.shape[1] != embedding_dim:
            raise VerificationError(f"{name} gives {run.shape[1]} dimensions; the manifest says {embedding_dim}.")
        # Written so that NaN does not pass.
        if not np.abs(np.linalg.norm(run, axis=1) - 1).max() < _LENGTH_TOLERANCE:
            raise VerificationError(f"{name} gives embeddings that are not of unit length.")
    alone, together = runs
    if not np.einsum("nd,nd->n", alone, together).min() > _SAME_MIN:
        raise VerificationError(f"{name} gives embeddings that depend on the rest of the batch.")
