"""Filters as the messages of the API; knows nothing of calls, and leaves it to the server what it accepts."""

from clip_search.conversion import attribute_message
from clip_search.filters import AllOf, AnyOf, Bound, Equals, Exists, Filter, Not, OneOf, Range
from clip_search.v1 import filter_pb2

__all__ = ["filter_message"]


def filter_message(filter_: Filter) -> filter_pb2.Filter:
    """Build the message of a filter."""
    match filter_:
        case AllOf(filters):
            return filter_pb2.Filter(all_of=_list_message(filters))
        case AnyOf(filters):
            return filter_pb2.Filter(any_of=_list_message(filters))
        case Not(negated):
            return filter_pb2.Filter(negation=filter_message(negated))
        case _:
            return _condition_message(filter_)


def _list_message(filters: tuple[Filter, ...]) -> filter_pb2.FilterList:
    return filter_pb2.FilterList(filters=map(filter_message, filters))


def _condition_message(condition: Equals | OneOf | Range | Exists) -> filter_pb2.Filter:
    name = condition.attribute
    match condition:
        case Equals(_, value):
            equals = filter_pb2.EqualsCondition(attribute=name, value=attribute_message(value))
            return filter_pb2.Filter(equals=equals)
        case OneOf(_, values):
            in_set = filter_pb2.InCondition(attribute=name, values=map(attribute_message, values))
            return filter_pb2.Filter(in_set=in_set)
        case Exists():
            return filter_pb2.Filter(exists=filter_pb2.ExistsCondition(attribute=name))
        case Range(_, lower, upper):
            return filter_pb2.Filter(range=_range_message(name, lower, upper))


def _range_message(name: str, lower: Bound | None, upper: Bound | None) -> filter_pb2.RangeCondition:
    message = filter_pb2.RangeCondition(attribute=name)
    if lower is not None:
        (message.at_least if lower.inclusive else message.greater_than).CopyFrom(attribute_message(lower.value))
    if upper is not None:
        (message.at_most if upper.inclusive else message.less_than).CopyFrom(attribute_message(upper.value))
    return message
