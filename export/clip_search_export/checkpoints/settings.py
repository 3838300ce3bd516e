"""Typed look-ups in the JSON configurations of checkpoints; every complaint names the file and the key.

Unlike a bundle's manifest, a configuration may hold any number of other keys.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from clip_search_export.errors import CheckpointError, UnsupportedError

__all__ = ["Settings"]

_SIZE_MAX = 1 << 20
"""Beyond any real width, depth, vocabulary or picture: an absurd value is refused before anything is allocated."""


class Settings:
    """One object of a configuration file, with the reference implementation's defaults behind it."""

    def __init__(self, values: Mapping[str, Any], where: str, defaults: Mapping[str, Any] | None = None) -> None:
        self._values = {**(defaults or {}), **values}
        self._where = where

    @property
    def where(self) -> str:
        """The file, and the path in it, for complaints."""
        return self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def size(self, key: str) -> int:
        """Return a count or length, at least 1."""
        value = self._values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _SIZE_MAX:
            raise CheckpointError(f"{self._where}: {key} is {value!r}; an integer from 1 to {_SIZE_MAX} was expected.")
        return value

    def square(self, key: str) -> int:
        """Return the side of a square, given as one length or as two equal ones."""
        value = self._values.get(key)
        if isinstance(value, list) and value and all(side == value[0] for side in value) and len(value) == len("hw"):
            return Settings({key: value[0]}, self._where).size(key)
        if isinstance(value, list):
            raise UnsupportedError(f"{self._where}: {key} = {value!r} is no square.")
        return self.size(key)

    def token(self, key: str) -> int:
        """Return a token id, at least 0."""
        value = self._values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise CheckpointError(f"{self._where}: {key} is {value!r}; a token id was expected.")
        return value

    def number(self, key: str) -> float:
        """Return a finite number."""
        value = self._values.get(key)
        if not _is_finite(value):
            raise CheckpointError(f"{self._where}: {key} is {value!r}; a number was expected.")
        return float(value)  # type: ignore[arg-type]

    def rgb(self, key: str) -> tuple[float, float, float]:
        """Return three finite numbers."""
        value = self._values.get(key)
        if not isinstance(value, list) or not all(map(_is_finite, value)) or len(value) != len("rgb"):
            raise CheckpointError(f"{self._where}: {key} is {value!r}; three numbers were expected.")
        return float(value[0]), float(value[1]), float(value[2])

    def deviations(self, key: str) -> tuple[float, float, float]:
        """Return three positive numbers."""
        red, green, blue = self.rgb(key)
        if min(red, green, blue) <= 0:
            raise CheckpointError(f"{self._where}: {key} is {[red, green, blue]}; positive numbers were expected.")
        return red, green, blue

    def get(self, key: str) -> Any:  # noqa: ANN401 - the caller looks at what it is.
        """Return whatever the key holds, or None."""
        return self._values.get(key)

    def nested(self, key: str, defaults: Mapping[str, Any] | None = None) -> "Settings":
        """Return a nested object."""
        value = self._values.get(key)
        if not isinstance(value, dict):
            raise CheckpointError(f"{self._where}: {key} is {value!r}; an object was expected.")
        return Settings(value, f"{self._where}: {key}", defaults)

    def refuse_unless(self, key: str, *accepted: object) -> None:
        """Refuse a setting that the tower modules do not implement; an absent key is accepted."""
        value = self._values.get(key)
        if key in self._values and value not in accepted:
            raise UnsupportedError(f"{self._where}: {key} = {value!r} is not supported.")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
