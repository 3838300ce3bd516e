"""The evaluation as a JSON document: every figure under its name in `figures.py`; what is not a number is null."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clip_search_evaluation.figures import Cases, Evaluation

__all__ = ["FORMAT_VERSION", "document_of", "document_text"]

#: Grows when a field changes its meaning or goes; not when one is added.
FORMAT_VERSION = 1


def document_of(evaluation: Evaluation, server: str, version: str) -> dict[str, Any]:
    """Return the document.

    Args:
        evaluation: what was found.
        server: its address.
        version: of the server.
    """
    dataset = evaluation.dataset
    return {
        "format_version": FORMAT_VERSION,
        "server": server,
        "server_version": version,
        "data": {
            "source": str(dataset.source),
            "kind": dataset.kind,
            "pictures": len(dataset.pictures),
            "texts": len(dataset.texts),
            "classes": list(dataset.classes),
            "left_out": dict(evaluation.left_out),
        },
        "subjects": [_plain(each) for each in evaluation.subjects],
        "comparisons": [_plain(each) for each in evaluation.comparisons],
    }


def document_text(document: Mapping[str, Any]) -> str:
    """Return the document as text, indented."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _plain(value: Any) -> Any:  # noqa: ANN401, PLR0911  # any value of `figures.py`, a return for each kind
    """Return a value as JSON has it."""
    if is_dataclass(value):
        named = ((field.name, getattr(value, field.name)) for field in fields(value))
        return {name: _plain(each) for name, each in named if not isinstance(each, Cases)}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value.tolist()]
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
