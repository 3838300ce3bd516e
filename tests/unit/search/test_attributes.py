from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_search_server.errors import DataLossError, InvalidArgumentError
from clip_search_server.limits import Limits
from clip_search_server.search.attributes import decode_attributes, encode_attributes

LIMITS = Limits()
values = st.one_of(
    st.text(max_size=20),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.datetimes(timezones=st.just(UTC)),
    st.lists(st.text(max_size=5), max_size=3).map(tuple),
)


@given(st.dictionaries(st.text(min_size=1, max_size=10), values, max_size=8))
def test_attributes_come_back_as_they_were(attributes: dict[str, str | int | float | bool]) -> None:
    """Every value keeps its kind and its exact value."""
    decoded = decode_attributes(encode_attributes(attributes, LIMITS))
    assert decoded == attributes
    assert {name: type(value) for name, value in decoded.items()} == {n: type(v) for n, v in attributes.items()}


def test_one_and_true_and_the_text_one_stay_different() -> None:
    """The kind is part of the value."""
    stored = {encode_attributes({"a": value}, LIMITS) for value in (1, 1.0, True, "1", ("1",))}
    assert len(stored) == 5


def test_instants_are_stored_in_utc() -> None:
    """The same instant in two time zones is stored as the same bytes."""
    berlin = datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))
    assert encode_attributes({"t": berlin}, LIMITS) == encode_attributes({"t": berlin.astimezone(UTC)}, LIMITS)


def test_the_bound_counts_names_and_texts_not_their_stored_form() -> None:
    """Characters that JSON writes as six bytes count as the one that was sent."""
    limits = Limits(attributes_bytes_max=21)
    assert len(encode_attributes({"ab": "\x01" * 10, "c": 7}, limits)) > 60
    with pytest.raises(InvalidArgumentError, match="take 22 bytes; at most 21"):
        encode_attributes({"ab": "\x01" * 10, "cd": 7}, limits)


@pytest.mark.parametrize(
    ("attributes", "field"),
    [
        ({"": 1}, "attributes"),
        ({"x": float("nan")}, "attributes['x']"),
        ({str(number): 1 for number in range(65)}, "attributes"),
        ({"x": "y" * 16_384}, "attributes"),
    ],
)
def test_bad_attributes_are_named(attributes: dict[str, str | int | float | bool], field: str) -> None:
    """Each refusal names the field."""
    with pytest.raises(InvalidArgumentError) as refused:
        encode_attributes(attributes, LIMITS)
    assert refused.value.field == field


@pytest.mark.parametrize("stored", [b"[1]", b"{", b'{"a":{"what":1}}', b'{"a":{"int":"1"}}', b'{"a":1}'])
def test_foreign_bytes_are_data_loss(stored: bytes) -> None:
    """Bytes that were not written by this format are reported, never guessed at."""
    with pytest.raises(DataLossError):
        decode_attributes(stored)
