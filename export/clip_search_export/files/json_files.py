"""Reads the JSON objects of a checkpoint; knows nothing of what they say."""

import json
from pathlib import Path
from typing import Any

from clip_search_export.errors import CheckpointError

__all__ = ["read_json", "reject_duplicates"]


def read_json(path: Path, *, unique_keys: bool = False) -> dict[str, Any]:
    """Read a JSON object from a file of a checkpoint.

    Args:
        path: the file.
        unique_keys: refuse a key that comes twice, at any depth, instead of letting the last prevail.

    Raises:
        CheckpointError: the file is missing or holds no such object.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, object_pairs_hook=reject_duplicates if unique_keys else None)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} has no {path.name}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object.")
    return value


def reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of `pairs`: a hook for `json.loads` that lets no key come twice.

    Raises:
        ValueError: names the key.
    """
    value: dict[str, Any] = {}
    for key, element in pairs:
        if key in value:
            raise ValueError(f"{key} is listed twice")
        value[key] = element
    return value
