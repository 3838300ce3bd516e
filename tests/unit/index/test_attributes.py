from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_search_server.errors import DataLossError, InvalidArgumentError
from clip_search_server.index.attributes import (
    Attributes,
    AttributeValue,
    check_attributes,
    decode_attributes,
    encode_attributes,
    entries_of,
)

COUNT_MAX, BYTES_MAX = 64, 16_384
values = st.one_of(
    st.text(max_size=20),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.datetimes(timezones=st.just(UTC)),
    st.lists(st.text(max_size=5), max_size=3).map(tuple),
)


@given(st.dictionaries(st.text(min_size=1, max_size=10), values, max_size=8))
def test_attributes_come_back_as_they_were(attributes: dict[str, AttributeValue]) -> None:
    """Every value keeps its kind and its exact value."""
    check_attributes(attributes, count_max=COUNT_MAX, bytes_max=BYTES_MAX)
    decoded = decode_attributes(encode_attributes(attributes))
    assert decoded == attributes
    assert {name: type(value) for name, value in decoded.items()} == {n: type(v) for n, v in attributes.items()}


def test_one_and_true_and_the_text_one_stay_different() -> None:
    """The kind is part of the value."""
    stored = {encode_attributes({"a": value}) for value in (1, 1.0, True, "1", ("1",))}
    assert len(stored) == 5


def test_instants_are_stored_in_utc() -> None:
    """The same instant in two time zones is stored as the same bytes."""
    berlin = datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))
    assert encode_attributes({"t": berlin}) == encode_attributes({"t": berlin.astimezone(UTC)})


def test_the_bound_counts_names_and_texts_not_their_stored_form() -> None:
    """Characters that JSON writes as six bytes count as the one that was sent."""
    check_attributes({"ab": "\x01" * 10, "c": 7}, count_max=9, bytes_max=21)
    assert len(encode_attributes({"ab": "\x01" * 10, "c": 7})) > 60
    with pytest.raises(InvalidArgumentError, match="take 22 bytes; at most 21"):
        check_attributes({"ab": "\x01" * 10, "cd": 7}, count_max=9, bytes_max=21)


@pytest.mark.parametrize(
    ("attributes", "field"),
    [
        ({"": 1}, "attributes"),
        ({"\ud800": 1}, "attributes"),
        ({"x": float("nan")}, "attributes['x']"),
        ({"x": 2**63}, "attributes['x']"),
        ({"x": "\ud800"}, "attributes['x']"),
        ({"x": ("a", "\ud800")}, "attributes['x']"),
        ({"x": datetime(2026, 1, 1)}, "attributes['x']"),  # noqa: DTZ001 - that is the fault
        ({"x": None}, "attributes['x']"),
        ({str(number): 1 for number in range(65)}, "attributes"),
        ({"x": "y" * 16_384}, "attributes"),
    ],
)
def test_bad_attributes_are_named(attributes: Attributes, field: str) -> None:
    """Each refusal names the field."""
    with pytest.raises(InvalidArgumentError) as refused:
        check_attributes(attributes, count_max=COUNT_MAX, bytes_max=BYTES_MAX)
    assert refused.value.field == field


def test_entries_are_what_items_are_found_by() -> None:
    """One for each value; a list has one of its own, so that it exists even when it is empty."""
    when = datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC)
    attributes: Attributes = {"n": 1, "t": "ü", "b": True, "w": when, "l": ("x", "y", "x"), "e": ()}
    assert [(name.decode(), int(kind), key) for name, kind, key in entries_of(attributes)] == [
        ("n", 2, 1),
        ("t", 1, "ü".encode()),
        ("b", 3, 1),
        ("w", 4, 1_000_005),
        ("l", 0, 0),
        ("l", 1, b"x"),
        ("l", 1, b"y"),
        ("e", 0, 0),
    ]


@pytest.mark.parametrize("stored", [b"[1]", b"{", b'{"a":{"what":1}}', b'{"a":{"int":"1"}}', b'{"a":1}'])
def test_foreign_bytes_are_data_loss(stored: bytes) -> None:
    """Bytes that were not written by this format are reported, never guessed at."""
    with pytest.raises(DataLossError):
        decode_attributes(stored)
