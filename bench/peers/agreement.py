"""Checks that servers give the same embeddings before their speed is compared; knows nothing of their starting."""

import itertools
from collections.abc import Mapping
from typing import Final

import numpy as np

from bench.peers.inputs import pictures, texts
from bench.peers.protocols import CONNECTS, Asker, Embeddings, Inputs
from clip_search_export.parity import measure_parity

__all__ = ["measure_agreement"]

_SAMPLES = 8
_FLOOR: Final = 0.999
"""The least centred cosine of any sample; what is above it differs by rounding."""


def measure_agreement(addresses: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return for each peer the least centred cosine of its texts and of its pictures with clip-search's.

    Raises:
        SystemExit: one is too low: the servers do not serve the same model, and no comparison would mean anything.
    """
    samples: dict[str, Inputs] = {
        "text": list(itertools.islice(texts(5), _SAMPLES)),
        "image": pictures(5, count=_SAMPLES),
    }
    cosines: dict[str, dict[str, float]] = {}
    for kind, inputs in samples.items():
        found = {server: _embed(server, address, inputs) for server, address in addresses.items()}
        ours = found.pop("clip-search").astype(np.float64)
        for server, theirs in found.items():
            cosine = measure_parity(ours, [theirs], 0.0).centred_cosine_min
            cosines.setdefault(server, {})[kind] = round(cosine, 6)
            if not cosine >= _FLOOR:
                raise SystemExit(f"{server} gives other embeddings: centred cosine of a {kind} {cosine:.4f}")
    return cosines


def _embed(server: str, address: str, inputs: Inputs) -> Embeddings:
    """Return unit vectors, (inputs, dim); asked one by one, as they are measured."""
    asker: Asker = CONNECTS[server](address)
    rows = np.concatenate([asker.decode(asker.ask(inputs[at : at + 1])) for at in range(len(inputs))])
    unit: Embeddings = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
