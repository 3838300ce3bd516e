"""Filters as messages to filters as values; knows nothing of what is done with them.

What a value cannot say (that nothing is set) is refused here, everything else where filters are used.
"""

from clip_search.v1 import filter_pb2, item_pb2
from clip_search_server.errors import InvalidArgumentError
from clip_search_server.index import (
    AllOf,
    AnyOf,
    Bound,
    Comparable,
    Condition,
    Equals,
    Exists,
    Filter,
    Not,
    OneOf,
    Range,
)
from clip_search_server.rpc.convert_attributes import attribute_from

__all__ = ["filter_from"]


def filter_from(message: filter_pb2.Filter, field: str = "filter") -> Filter:
    """Return the filter that was sent as `field`.

    Messages nest no deeper than protobuf reads them, a hundred levels, so neither does this function.

    Raises:
        InvalidArgumentError: naming a condition or a value that is not set, or a list where one value belongs.
    """
    match message.WhichOneof("condition"):
        case "all_of":
            return AllOf(_filters_from(message.all_of, f"{field}.all_of"))
        case "any_of":
            return AnyOf(_filters_from(message.any_of, f"{field}.any_of"))
        case "negation":
            return Not(filter_from(message.negation, f"{field}.negation"))
        case None:
            raise InvalidArgumentError(field, "is empty; set a condition.")
        case _:
            return _condition_from(message, field)


def _condition_from(message: filter_pb2.Filter, field: str) -> Condition:
    match message.WhichOneof("condition"):
        case "equals":
            return Equals(message.equals.attribute, _comparable_from(message.equals.value, f"{field}.equals.value"))
        case "in_set":
            values = enumerate(message.in_set.values)
            return OneOf(
                message.in_set.attribute,
                tuple(_comparable_from(value, f"{field}.in_set.values[{at}]") for at, value in values),
            )
        case "range":
            lower = _bound_from(message.range, message.range.WhichOneof("lower"), f"{field}.range")
            upper = _bound_from(message.range, message.range.WhichOneof("upper"), f"{field}.range")
            return Range(message.range.attribute, lower, upper)
        case _:
            return Exists(message.exists.attribute)


def _filters_from(message: filter_pb2.FilterList, field: str) -> tuple[Filter, ...]:
    return tuple(filter_from(each, f"{field}.filters[{at}]") for at, each in enumerate(message.filters))


def _bound_from(message: filter_pb2.RangeCondition, name: str | None, field: str) -> Bound | None:
    if name is None:
        return None
    value = _comparable_from(getattr(message, name), f"{field}.{name}")
    return Bound(value, inclusive=name in {"at_least", "at_most"})


def _comparable_from(message: item_pb2.AttributeValue, field: str) -> Comparable:
    value = attribute_from(message, field)
    if isinstance(value, tuple):
        raise InvalidArgumentError(field, "is a list; compare with one text, which matches lists that hold it.")
    return value
