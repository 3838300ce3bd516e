"""The cases whose embeddings were computed once with open_clip and committed: their weights and inputs, made anew.

Weights and inputs come from NumPy's frozen legacy generator and are not stored; the files in `tests/goldens` hold what
open_clip said of them, written by `tests/parity/make_goldens.py`.
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tests.unit.export.random_checkpoints import VIT

__all__ = ["CASES", "GoldenInputs", "golden_file", "make_inputs"]

CASES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "modified_resnet": {
        "gelu": {"seed": 11},
        "quick_gelu": {
            "seed": 12,
            "quick_gelu": True,
            "image_size": 96,
            "layers": [2, 1, 2, 1],
            "vision_width": 12,
            "head_width": 24,
            "text_layers": 3,
            "context_length": 20,
        },
    },
    "vision_transformer": {
        "gelu": {"seed": 13, **VIT},
        "quick_gelu": {
            "seed": 14,
            **VIT,
            "quick_gelu": True,
            "image_size": 80,
            "patch_size": 18,  # leaves eight pixels out
            "head_width": 24,
            "mlp_ratio": 2.34,
            "layers": 2,
        },
    },
}
"""Arguments of `write_open_clip` by the file of the goldens and the name of the case."""

_PICTURES = 8


def golden_file(family: str) -> Path:
    """Return where the goldens of one family are."""
    return Path(__file__).resolve().parents[2] / "goldens" / f"{family}.json"


class GoldenInputs(NamedTuple):
    """What the towers of one case are asked."""

    pixels: npt.NDArray[np.uint8]  # (pictures, size, size, 3)
    ids: npt.NDArray[np.int64]  # (texts, context), padded with 0 as open_clip does
    ends: npt.NDArray[np.int64]  # (texts,), where the highest id of each text is


def make_inputs(model: dict[str, Any]) -> GoldenInputs:
    """Return the inputs for a model configuration (`model_cfg`): blocks of colour, and a text of every length."""
    random = np.random.RandomState(7)
    size, text = model["vision_cfg"]["image_size"], model["text_cfg"]
    coarse = random.randint(0, 256, size=(_PICTURES, size // 16, size // 16, 3))
    pixels = coarse.repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)
    context, end_token = text["context_length"], text["vocab_size"] - 1
    ends = np.arange(1, context)
    ids = random.randint(1, end_token - 1, size=(len(ends), context)).astype(np.int64)
    ids[:, 0] = end_token - 1
    for row, end in zip(ids, ends, strict=True):
        row[end], row[end + 1 :] = end_token, 0
    return GoldenInputs(pixels, ids, ends)
