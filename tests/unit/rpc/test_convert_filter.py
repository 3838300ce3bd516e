"""Filters on their way: client values, messages, server values."""

import contextlib
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_search import filters as client
from clip_search.filter_messages import filter_message
from clip_search.v1 import filter_pb2, item_pb2
from clip_search_server import index as server
from clip_search_server.errors import InvalidArgumentError
from clip_search_server.rpc.convert_filter import filter_from
from tests.unit.index.filter_data import filters

WHEN = datetime(2026, 5, 4, tzinfo=UTC)


@given(filters)
def test_what_the_client_means_is_what_the_server_reads(filter_: server.Filter) -> None:
    """Every filter comes through the messages as it was, values with their kinds."""
    sent = filter_message(_as_client(filter_))
    read = filter_from(filter_pb2.Filter.FromString(sent.SerializeToString()))
    assert repr(read) == repr(filter_)


def _as_client(value: Any) -> Any:
    """Give the client's class of the same name and fields."""
    if isinstance(value, tuple):
        return tuple(_as_client(each) for each in value)
    if not hasattr(value, "__dataclass_fields__"):
        return value
    kind = getattr(client, type(value).__name__)
    return kind(*(_as_client(getattr(value, name)) for name in value.__dataclass_fields__))


def _value(**kind: Any) -> item_pb2.AttributeValue:
    return item_pb2.AttributeValue(**kind)


_LIST = _value(string_list_value=item_pb2.StringList(values=["x"]))
_EMPTY = filter_pb2.Filter()


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (_EMPTY, "filter"),
        (filter_pb2.Filter(negation=_EMPTY), "filter.negation"),
        (filter_pb2.Filter(all_of=filter_pb2.FilterList(filters=[_EMPTY])), "filter.all_of.filters[0]"),
        (filter_pb2.Filter(equals=filter_pb2.EqualsCondition(attribute="a")), "filter.equals.value"),
        (filter_pb2.Filter(equals=filter_pb2.EqualsCondition(attribute="a", value=_LIST)), "filter.equals.value"),
        (
            filter_pb2.Filter(in_set=filter_pb2.InCondition(attribute="a", values=[_value(int_value=1), _value()])),
            "filter.in_set.values[1]",
        ),
        (filter_pb2.Filter(range=filter_pb2.RangeCondition(attribute="a", less_than=_LIST)), "filter.range.less_than"),
        (filter_pb2.Filter(range=filter_pb2.RangeCondition(at_least=_value())), "filter.range.at_least"),
    ],
)
def test_what_is_not_set_is_named(message: filter_pb2.Filter, field: str) -> None:
    """A condition or value that is missing is refused with its path."""
    with pytest.raises(InvalidArgumentError, match=f"^{re.escape(field)}: ") as refused:
        filter_from(message)
    assert refused.value.field == field


@given(st.binary(max_size=40))
def test_bytes_from_anywhere_are_read_or_refused(data: bytes) -> None:
    """No message that protobuf reads does anything but convert or name a field."""
    try:
        message = filter_pb2.Filter.FromString(data)
    except Exception:  # noqa: BLE001 - protobuf's own kinds of error
        return
    with contextlib.suppress(InvalidArgumentError):
        filter_from(message)
