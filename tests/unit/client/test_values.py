"""Text to typed attributes."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from clip_search.contents import AttributeValue
from clip_search.indexing.values import ValueKindError, attribute_of, attribute_of_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-12", -12),
        ("0", 0),
        ("007", "007"),
        ("+1", "+1"),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", "9223372036854775808"),
        ("1.50", 1.5),
        ("1.5e3", 1500.0),
        ("1e3", "1e3"),
        ("nan", "nan"),
        ("true", True),
        ("True", "True"),
        ("2024-05-31", datetime(2024, 5, 31, tzinfo=UTC)),
        ("2024-05-31 12:30", datetime(2024, 5, 31, 12, 30, tzinfo=UTC)),
        ("2024-05-31T12:30:00.5Z", datetime(2024, 5, 31, 12, 30, 0, 500_000, tzinfo=UTC)),
        ("2024-05-31T12:30+02:00", datetime(2024, 5, 31, 12, 30, tzinfo=timezone(timedelta(hours=2)))),
        ("2024-13-31", "2024-13-31"),
        ("٣", "٣"),
        ("a red bicycle", "a red bicycle"),
    ],
)
def test_text_is_taken_for_what_it_looks_like(text: str, value: AttributeValue) -> None:
    """Where in doubt it stays text."""
    found = attribute_of_text(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("12", "text", "12"),
        ("007", "int", 7),
        ("12", "float", 12.0),
        ("Yes", "bool", True),
        ("2024-05-31", "time", datetime(2024, 5, 31, tzinfo=UTC)),
        (" a ; b;;", "list", ("a", "b")),
    ],
)
def test_a_kind_that_is_told_counts(text: str, kind: str, value: AttributeValue) -> None:
    """Whatever the text looks like."""
    found = attribute_of_text(text, kind)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "kind", "problem"),
    [
        ("x", "int", "no whole number"),
        ("9223372036854775808", "int", "no whole number of 64 bits"),
        ("x", "float", "no number"),
        ("maybe", "bool", "neither true nor false"),
        ("yesterday", "time", "no time such as"),
    ],
)
def test_what_is_not_of_its_kind_says_so(text: str, kind: str, problem: str) -> None:
    """With the text."""
    with pytest.raises(ValueKindError, match=problem):
        attribute_of_text(text, kind)


def test_values_of_json_keep_their_types() -> None:
    """None and NaN are no attributes; a number beyond 64 bits is refused."""
    assert attribute_of("12") == "12"
    assert attribute_of(True) is True
    assert attribute_of(None) is None
    assert attribute_of(float("nan")) is None
    assert attribute_of([1, 2]) == "[1, 2]"
    assert attribute_of(["a"], "text") == '["a"]'
    assert attribute_of(["a"], "list") == ("a",)
    assert attribute_of(5, "text") == "5"
    with pytest.raises(ValueKindError, match="beyond 64 bits"):
        attribute_of(2**63)
