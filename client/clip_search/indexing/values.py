"""Text, and values of JSON and Parquet, to typed attributes; knows nothing of where they stand."""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from clip_search.contents import AttributeValue

__all__ = ["KINDS", "ValueKindError", "attribute_of", "attribute_of_text"]

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
# With a leading zero it is a code, such as that of a place, and no number.
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_DECIMAL_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+([eE][-+]?[0-9]{1,3})?")
_DAY_OR_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[-+][0-9]{2}:[0-9]{2})?)?"
)


class ValueKindError(ValueError):
    """A value cannot be an attribute; the message says why."""


def attribute_of_text(text: str, kind: str | None = None) -> AttributeValue:
    """Give a text as what it looks like, or as the kind that it is said to be.

    Without a kind `12` is a whole number, `0.5` a number, `true` and `false` are truth values, `2024-05-31` and
    `2024-05-31T12:00:00Z` instants (UTC where no offset is given), and everything else is text, `007` too.

    Raises:
        ValueKindError: it is not of that kind.
    """
    return _guess(text) if kind is None else KINDS[kind](text)


def attribute_of(value: Any, kind: str | None = None) -> AttributeValue | None:  # noqa: ANN401  # what JSON and Parquet hold
    """Give a value of JSON or Parquet as an attribute; None where there is none.

    Texts of JSON stay texts, unless a kind is given; what has no place among attributes (objects, lists of numbers)
    becomes JSON text.

    Raises:
        ValueKindError: it cannot be an attribute, or is not of that kind.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list) and kind in {None, "list"} and all(isinstance(each, str) for each in value):
        return tuple(value)
    if kind is None and isinstance(value, str | bool | int | float | date):
        return _plain(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if kind is None else KINDS[kind](text)


def _plain(value: str | float | date) -> AttributeValue:
    match value:
        case datetime():
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        case date():
            return datetime(value.year, value.month, value.day, tzinfo=UTC)
        case int() if not isinstance(value, bool):
            return _in_bounds(value)
        case _:
            return value


def _guess(text: str) -> AttributeValue:
    if text in {"true", "false"}:
        return text == "true"
    if _WHOLE_NUMBER.fullmatch(text) and _INT_MIN <= int(text) <= _INT_MAX:
        return int(text)
    if _DECIMAL_NUMBER.fullmatch(text):
        return float(text)
    if _DAY_OR_INSTANT.fullmatch(text):
        try:
            return _instant(text)
        except ValueKindError:  # such as 2024-13-01
            return text
    return text


def _in_bounds(value: int) -> int:
    if not _INT_MIN <= value <= _INT_MAX:
        raise ValueKindError(f"{value} is beyond 64 bits")
    return value


def _whole(text: str) -> int:
    try:
        return _in_bounds(int(text))
    except ValueError as error:
        raise ValueKindError(f"{text!r} is no whole number of 64 bits") from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueKindError(f"{text!r} is no number") from error


def _truth(text: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in known:
        raise ValueKindError(f"{text!r} is neither true nor false")
    return known[text.lower()]


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueKindError(f"{text!r} is no time such as 2024-05-31 or 2024-05-31T12:00:00Z") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _texts(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(";") if each.strip())


#: What a column or an attribute can be said to be.
KINDS: Mapping[str, Callable[[str], AttributeValue]] = {
    "text": str,
    "int": _whole,
    "float": _number,
    "bool": _truth,
    "time": _instant,
    "list": _texts,
}
