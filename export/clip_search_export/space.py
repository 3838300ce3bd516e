"""Computes the id of an embedding space: equal exactly when vectors of two bundles may be compared.

The digest covers what decides a vector: every weight (as float32, under the layout-independent names of `weights`),
heads, activations and epsilons, the tokenizer, text cleaning and pooling, the context length, and the preprocessing of
pictures. It does not cover what leaves vectors alone: the file layout, the precision of the export, the exporter's
version, the scale and bias of the logits, padding that is never seen.
"""

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from clip_search_export.checkpoints.checkpoint import Checkpoint
from clip_search_export.weights import walk

__all__ = ["compute_space_id"]


def compute_space_id(checkpoint: Checkpoint) -> str:
    """Return the digest of the space that both towers of `checkpoint` embed into."""
    digest = hashlib.sha256()
    for tower_name, tower in (("image", checkpoint.image), ("text", checkpoint.text)):
        digest.update(f"{tower_name}:{type(tower).__name__}\n".encode())
        for path, value in walk(tower):
            if isinstance(value, np.ndarray):
                digest.update(f"{path}:{list(value.shape)}\n".encode())
                digest.update(np.ascontiguousarray(value, dtype="<f4").data)
            else:
                digest.update(f"{path}={value!r}\n".encode())
    settings: dict[str, Any] = {
        "preprocessing": dataclasses.asdict(checkpoint.preprocessing),
        "text_cleaning": checkpoint.text_cleaning,
        "text_pooling": checkpoint.text_pooling,
        "end_token_id": checkpoint.end_token_id,
        "tokenizer": json.loads(checkpoint.tokenizer_json),
    }
    if not checkpoint.trim_padding:
        # Here padding is seen.
        settings["pad_token_id"] = checkpoint.pad_token_id
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return f"sha256:{digest.hexdigest()}"
