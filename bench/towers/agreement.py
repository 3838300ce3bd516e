"""Checks that a contender computes what our FP32 towers compute, before it is timed; knows no runtime."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from bench.towers.cases import random_ids
from bench.towers.contender import Contender, Embeddings
from bench.towers.models import Model
from clip_search_export.inputs import make_image_inputs
from clip_search_export.parity import measure_parity
from clip_search_server.bundle import ImagePreprocessing

__all__ = ["FLOORS", "embed_samples", "measure_agreement", "reason_to_refuse"]

FLOORS: Final[Mapping[str, float]] = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.9, "int8": 0.9}
"""The least centred cosine of any sample by the format that a contender computes in.

They tell another model from rounding, and are no judgement of quality: random weights suffer more from rounding than
trained ones do, and parity has gates of its own in the exporter.
"""
_PICTURES, _TEXTS, _TOKENS = 6, 8, 12


def embed_samples(contender: Contender, model: Model) -> dict[str, Embeddings]:
    """Return unit vectors of sample pictures and of sample texts."""
    squash = ImagePreprocessing(model.image_size, "squash", "bicubic", "none", model.mean, model.std)
    pictures = make_image_inputs(squash)[:_PICTURES]
    ids = random_ids(model, _TEXTS, _TOKENS if _TOKENS in model.text_lengths else model.context)
    return {"pictures": _unit(contender.images(pictures)()), "texts": _unit(contender.texts(ids)())}


def measure_agreement(ours: Mapping[str, Embeddings], theirs: Mapping[str, Embeddings]) -> dict[str, float]:
    """Return the least centred cosine of each kind of sample."""
    return {
        kind: measure_parity(ours[kind].astype(np.float64), [theirs[kind]], 0.0).centred_cosine_min for kind in ours
    }


def reason_to_refuse(cosines: Mapping[str, float], number_format: str) -> str | None:
    """Return why a contender must not be timed, or none if it agrees."""
    floor = FLOORS[number_format]
    # Written so that NaN does not pass.
    low = [f"{kind} {cosine:.4f}" for kind, cosine in cosines.items() if not cosine >= floor]
    return f"centred cosine with ours {' and '.join(low)}, below {floor}" if low else None


def _unit(embeddings: Embeddings) -> Embeddings:
    unit: Embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit
