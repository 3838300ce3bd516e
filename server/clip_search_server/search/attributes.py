"""Facts of an item, typed, and the bytes they are stored as; knows nothing of protobuf and of filters.

Stored form: one JSON object, UTF-8, keys sorted, no spaces: name -> {kind: value} with the kinds `string`, `int`,
`double`, `bool`, `timestamp` (ISO 8601, UTC, microseconds) and `strings`. The kind is stored because 1, 1.0 and "1"
differ.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime

from clip_search_server.errors import DataLossError, InvalidArgumentError
from clip_search_server.limits import Limits

__all__ = ["AttributeValue", "Attributes", "decode_attributes", "encode_attributes"]

AttributeValue = str | int | float | bool | datetime | tuple[str, ...]
Attributes = Mapping[str, AttributeValue]


def encode_attributes(attributes: Attributes, limits: Limits) -> bytes:
    """Return the stored form of `attributes`.

    Raises:
        InvalidArgumentError: a name is empty, a number is not finite, or there are too many or too large attributes.
    """
    if len(attributes) > limits.attributes_max:
        raise InvalidArgumentError(
            "attributes", f"has {len(attributes)} entries; at most {limits.attributes_max} are accepted."
        )
    for name, value in attributes.items():
        if not name:
            raise InvalidArgumentError("attributes", "has an empty name.")
        if isinstance(value, float) and math.isnan(value):
            raise InvalidArgumentError(f"attributes[{name!r}]", "is not a number.")
    size = sum(len(name.encode()) + _size_bytes(value) for name, value in attributes.items())
    if size > limits.attributes_bytes_max:
        raise InvalidArgumentError(
            "attributes", f"take {size:,} bytes; at most {limits.attributes_bytes_max:,} are accepted."
        )
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
        raise DataLossError(f"Stored attributes cannot be read: {error}") from error


def _size_bytes(value: AttributeValue) -> int:
    """Return what `value` counts, whatever its stored form takes: text as UTF-8, everything else 8 bytes."""
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
