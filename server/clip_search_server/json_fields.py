"""Typed reading of JSON objects: every complaint names the key; knows nothing of what the keys mean."""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

__all__ = ["JsonFieldError", "JsonFields"]

_Choice = TypeVar("_Choice", bound=str)
_Value = TypeVar("_Value")


class JsonFieldError(ValueError):
    """A key is missing, of the wrong type, out of range or unknown; the message names its full path."""


class JsonFields:
    """One JSON object whose keys are taken one by one and checked on the way.

    Args:
        value: the parsed JSON value, which must be an object.
        path: dotted path of the object in its document; empty for the document itself.
    """

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise JsonFieldError(f"{path or 'the document'} must be an object")
        self._object: Mapping[str, Any] = value
        self._path = path
        self._taken: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        return iter(self._object)

    def text(self, key: str) -> str:
        """Take a non-empty string."""
        value = self._take(key)
        if not isinstance(value, str) or not value:
            raise self._error(key, "a non-empty string")
        return value

    def optional_text(self, key: str) -> str | None:
        """Take a non-empty string or null."""
        return None if self._take(key) is None else self.text(key)

    def choice(self, key: str, choices: tuple[_Choice, ...]) -> _Choice:
        """Take one of the given strings."""
        value = self._take(key)
        for choice in choices:
            if value == choice:
                return choice
        raise self._error(key, "one of " + ", ".join(choices))

    def integer(self, key: str, *, at_least: int = 0) -> int:
        """Take an integer not below `at_least`; true and false are no integers here."""
        value = self._take(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            raise self._error(key, f"an integer of at least {at_least}")
        return value

    def number(self, key: str) -> float:
        """Take a finite number."""
        value = self._take(key)
        if not _is_finite_number(value):
            raise self._error(key, "a finite number")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        """Take a finite number or null."""
        return None if self._take(key) is None else self.number(key)

    def boolean(self, key: str) -> bool:
        """Take true or false."""
        value = self._take(key)
        if not isinstance(value, bool):
            raise self._error(key, "true or false")
        return value

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """Take a list of exactly `count` finite numbers."""
        value = self._take(key)
        if not isinstance(value, list) or len(value) != count or not all(map(_is_finite_number, value)):
            raise self._error(key, f"a list of {count} finite numbers")
        return tuple(float(number) for number in value)

    def object(self, key: str) -> "JsonFields":
        """Take a nested object."""
        return JsonFields(self._take(key), self._name(key))

    def mapping(self, key: str, parse: "Callable[[JsonFields], _Value]") -> dict[str, _Value]:
        """Take an object whose keys are free and whose values are objects of one kind."""
        nested = self.object(key)
        parsed = {}
        for name in nested:
            fields = nested.object(name)
            parsed[name] = parse(fields)
            fields.finish()
        return parsed

    def texts(self, key: str) -> dict[str, str]:
        """Take an object whose keys are free and whose values are strings."""
        nested = self.object(key)
        return {name: nested.text(name) for name in nested}

    def finish(self) -> None:
        """Refuse keys that nobody took: a misspelled key must not pass for an absent one."""
        unknown = sorted(set(self._object) - self._taken)
        if unknown:
            raise JsonFieldError(f"{self._name(unknown[0])} is not a known key")

    def _take(self, key: str) -> Any:  # noqa: ANN401 - the callers establish the type.
        if key not in self._object:
            raise JsonFieldError(f"{self._name(key)} is missing")
        self._taken.add(key)
        return self._object[key]

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _error(self, key: str, expected: str) -> JsonFieldError:
        return JsonFieldError(f"{self._name(key)} must be {expected}")


def _is_finite_number(value: object) -> bool:
    # Bounding by a comparison also refuses integers too large for a float, on which isfinite raises.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
