"""Computes the id of an embedding space: equal exactly when vectors of two bundles may be compared.

The digest covers what decides a vector: every weight (as float32, under the layout-independent names of `weights`),
heads, activations and epsilons, the tokenizer, text cleaning and pooling, the context length, and the preprocessing of
pictures. It does not cover what leaves vectors alone: the file layout, the precision of the export, the exporter's
version, the scale and bias of the logits, padding that is never seen.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.weights import Array, walk
from clip_search_server.bundle import Manifest

__all__ = ["Parts", "compute_space_id", "digest_space"]

Parts: TypeAlias = Iterable[tuple[str, Array | float | str | None]]
"""The weights and settings of a tower, each with its name, in an order that is always the same."""


def compute_space_id(checkpoint: Checkpoint) -> str:
    """Return the digest of the space that both towers of `checkpoint` embed into."""
    towers = {
        f"{name}:{type(tower).__name__}": walk(tower)
        for name, tower in (("image", checkpoint.image), ("text", checkpoint.text))
    }
    return digest_space(towers, checkpoint.describe(), checkpoint.tokenizer_json)


def digest_space(towers: Mapping[str, Parts], manifest: Manifest, tokenizer_json: str) -> str:
    """Return the digest of the space of these towers, each under its name and kind, fed as the manifest says."""
    digest = hashlib.sha256()
    for tower, parts in towers.items():
        digest.update(f"{tower}\n".encode())
        for path, value in parts:
            if isinstance(value, np.ndarray):
                digest.update(f"{path}:{list(value.shape)}\n".encode())
                digest.update(np.ascontiguousarray(value, dtype="<f4").data)
            else:
                digest.update(f"{path}={value!r}\n".encode())
    settings: dict[str, Any] = {
        "preprocessing": dataclasses.asdict(manifest.image_preprocessing),
        "text_cleaning": manifest.text_cleaning,
        "text_pooling": manifest.text_pooling,
        "end_token_id": manifest.end_token_id,
        "tokenizer": json.loads(tokenizer_json),
    }
    if not manifest.trim_padding:
        # Here padding is seen.
        settings["pad_token_id"] = manifest.pad_token_id
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return f"sha256:{digest.hexdigest()}"
