"""Attributes as messages to values and back; knows nothing of items and filters."""

from collections.abc import Mapping
from datetime import UTC, datetime

from clip_search.v1 import item_pb2
from clip_search_server.errors import InvalidArgumentError
from clip_search_server.index import Attributes, AttributeValue

__all__ = ["attribute_from", "attribute_messages"]


def attribute_from(message: item_pb2.AttributeValue, field: str) -> AttributeValue:
    """Return the value that was sent as `field`.

    Raises:
        InvalidArgumentError: no kind is set, or an instant is out of range.
    """
    kind = message.WhichOneof("kind")
    match kind:
        case "timestamp_value":
            try:
                return message.timestamp_value.ToDatetime(tzinfo=UTC)
            except (OverflowError, ValueError) as error:
                raise InvalidArgumentError(field, "is outside the years 1 to 9999.") from error
        case "string_list_value":
            return tuple(message.string_list_value.values)
        case None:
            raise InvalidArgumentError(field, "has no value.")
        case _:
            value: AttributeValue = getattr(message, kind)
            return value


def _attribute_message(value: AttributeValue) -> item_pb2.AttributeValue:
    message = item_pb2.AttributeValue()
    match value:
        case bool():
            message.bool_value = value
        case int():
            message.int_value = value
        case float():
            message.double_value = value
        case datetime():
            message.timestamp_value.FromDatetime(value)
        case tuple():
            message.string_list_value.SetInParent()
            message.string_list_value.values.extend(value)
        case _:
            message.string_value = value
    return message


def attribute_messages(attributes: Attributes) -> Mapping[str, item_pb2.AttributeValue]:
    """Return the messages of an item's attributes."""
    return {name: _attribute_message(value) for name, value in attributes.items()}
