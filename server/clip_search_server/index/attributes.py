"""Facts of an item, typed: the bytes they are stored as and the entries they are found by; knows nothing of SQLite.

Stored form, in the row of the item and under its CRC: no bytes for no attributes, else one JSON object, UTF-8, keys
sorted, no spaces: name -> {kind: value} with the kinds `string`, `int`, `double`, `bool`, `timestamp` (ISO 8601, UTC,
microseconds) and `strings`. The kind is stored because 1, 1.0 and "1" differ.

Entries, which are derived from it and which filters are looked up by: one (name, kind, key) for each value, where the
name is UTF-8 and keys of one kind compare as the values do:

    0  list       0: the item has a list of this name, whatever is in it, and an entry of kind 1 for each of its texts
    1  text       UTF-8; bytes compare as filters do
    2  number     the int or float itself; SQLite, like Python, compares the two exactly
    3  truth      0 or 1
    4  instant    microseconds since 1970 in UTC
"""

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from clip_search_server.errors import DataLossError, InvalidArgumentError

AttributeValue = str | int | float | bool | datetime | tuple[str, ...]
Attributes = Mapping[str, AttributeValue]
Key = bytes | int | float

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INTEGER_BITS = 63


class Kind(IntEnum):
    """Values compare only within their kind."""

    LIST = 0
    TEXT = 1
    NUMBER = 2
    TRUTH = 3
    INSTANT = 4


def kind_of(value: AttributeValue) -> Kind:
    """Return the kind of a value."""
    match value:
        case bool():  # before int: a bool is one
            return Kind.TRUTH
        case int() | float():
            return Kind.NUMBER
        case str():
            return Kind.TEXT
        case datetime():
            return Kind.INSTANT
        case _:
            return Kind.LIST


def key_of(value: str | float | datetime) -> Key:
    """Return what a value other than a list is compared by, within its kind."""
    match value:
        case bool():
            return int(value)
        case str():
            return value.encode()
        case datetime():
            return (value - _EPOCH) // _MICROSECOND
        case _:
            return value


def entries_of(attributes: Attributes) -> Iterator[tuple[bytes, Kind, Key]]:
    """Yield the entries of an item's attributes, none twice."""
    for name, value in attributes.items():
        if isinstance(value, tuple):
            yield name.encode(), Kind.LIST, 0
            for text in dict.fromkeys(value):
                yield name.encode(), Kind.TEXT, key_of(text)
        else:
            yield name.encode(), kind_of(value), key_of(value)


def check_value(value: AttributeValue, field: str) -> None:
    """Raise InvalidArgumentError, naming `field`, for what no item can have as an attribute."""
    match value:
        case bool():
            return
        case str():
            check_text(value, field)
        case int():
            if not -(2**_INTEGER_BITS) <= value < 2**_INTEGER_BITS:
                raise InvalidArgumentError(field, "is a whole number of more than 64 bits")
        case float():
            if math.isnan(value):
                raise InvalidArgumentError(field, "is not a number (NaN), which compares with nothing")
        case datetime():
            if value.tzinfo is None:
                raise InvalidArgumentError(field, "is an instant without a time zone")
        case tuple():
            for text in value:
                check_text(text, field)
        case _:  # callers without a type checker
            raise InvalidArgumentError(field, f"is a {type(value).__name__}, which is no kind of attribute")


def check_text(text: str, field: str) -> None:
    """Raise InvalidArgumentError, naming `field`, for text that cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(field, "is not valid Unicode; it cannot be written as UTF-8") from error


def check_attributes(attributes: Attributes, *, count_max: int, bytes_max: int) -> None:
    """Raise InvalidArgumentError, naming the field, for attributes that cannot be stored.

    Args:
        attributes: by name.
        count_max: how many there may be.
        bytes_max: what names and values may take together: texts as UTF-8, everything else 8 bytes.
    """
    if len(attributes) > count_max:
        raise InvalidArgumentError("attributes", f"has {len(attributes)} entries; at most {count_max} are accepted")
    size = 0
    for name, value in attributes.items():
        if not name:
            raise InvalidArgumentError("attributes", "has an empty name")
        check_text(name, "attributes")
        check_value(value, f"attributes[{name!r}]")
        size += len(name.encode()) + _size_bytes(value)
    if size > bytes_max:
        raise InvalidArgumentError("attributes", f"take {size:,} bytes; at most {bytes_max:,} are accepted")


def encode_attributes(attributes: Attributes) -> bytes:
    """Return the stored form of attributes that `check_attributes` passed."""
    if not attributes:
        return b""
    tagged = {name: _tag(value) for name, value in attributes.items()}
    return json.dumps(tagged, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def decode_attributes(stored: bytes) -> dict[str, AttributeValue]:
    """Return the attributes that `encode_attributes` stored.

    Raises:
        DataLossError: the bytes are not in the stored form.
    """
    if not stored:
        return {}
    try:
        return {name: _untag(tagged) for name, tagged in json.loads(stored).items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataLossError(f"stored attributes cannot be read ({error}); write the item again") from error


def _size_bytes(value: AttributeValue) -> int:
    match value:
        case str():
            return len(value.encode())
        case tuple():
            return sum(len(text.encode()) for text in value)
        case _:
            return 8


def _tag(value: AttributeValue) -> dict[str, object]:
    match value:
        case bool():
            return {"bool": value}
        case int():
            return {"int": value}
        case float():
            return {"double": value}
        case datetime():
            return {"timestamp": value.astimezone(UTC).isoformat(timespec="microseconds")}
        case tuple():
            return {"strings": list(value)}
        case _:
            return {"string": value}


def _untag(tagged: dict[str, object]) -> AttributeValue:
    ((kind, value),) = tagged.items()
    match kind, value:
        case "timestamp", str():
            return datetime.fromisoformat(value)
        case "strings", list():
            return tuple(value)
        case ("string", str()) | ("int", int()) | ("double", float()) | ("bool", bool()):
            return value  # type: ignore[return-value]  # the pattern has checked it
    raise ValueError(f"unknown kind {kind!r}")
