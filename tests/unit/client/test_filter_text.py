import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clip_search.filter_text import FilterSyntaxError, parse_filter
from clip_search.filter_writer import text_of
from clip_search.filters import AllOf, AnyOf, Attribute, Bound, Comparable, Equals, Exists, Filter, Not, OneOf, Range

YEAR, TAG = Attribute("year"), Attribute("tag")

_odd = ["", "and", "true", "2026", "1e5", "2026-05-04", "2026-99-99", "9" * 30, "inf", "it's", 'a"b', "\\"]
_texts = st.text(max_size=12) | st.sampled_from(_odd)
_instants = st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(fold=0))
_words = ["a", "and", "or", "not", "in", "exists", "(", ")", ",", "=", "<", "<=", "1", '"x"', "'", "2026-99-01", "true"]
names = _texts.filter(bool)
values: st.SearchStrategy[Comparable] = st.one_of(
    _texts,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    _instants,
)


@st.composite
def _ranges(draw: st.DrawFn) -> Range:
    ends = draw(st.sampled_from([_texts, st.floats(allow_nan=False) | st.integers(-9, 9), _instants]))
    bounds = st.builds(Bound, ends, st.booleans())
    lower, upper = draw(st.tuples(bounds | st.none(), bounds | st.none()).filter(any))
    return Range(draw(names), lower, upper)


conditions: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Equals, names, values),
    st.builds(OneOf, names, st.lists(values, min_size=1, max_size=3).map(tuple)),
    _ranges(),
    st.builds(Exists, names),
)
filters: st.SearchStrategy[Filter] = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.builds(AllOf, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(AnyOf, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Not, inner),
    ),
    max_leaves=8,
)


@given(filters)
@example(Equals("a", -0.0))
@example(Equals("a\x00b", "\u2028"))
@example(Not(Not(AllOf((Exists("not"), AnyOf((Exists("a"), AllOf((Exists("b"), Exists("c"))))))))))
def test_what_is_written_is_read_back(filter_: Filter) -> None:
    """Every filter has a text, and the text is that filter: values keep their kinds."""
    text = text_of(filter_)
    assert text.isprintable()
    read = parse_filter(text)
    assert read == filter_
    assert repr(read) == repr(filter_)


@given(st.text() | st.lists(st.sampled_from(_words)).map(" ".join))
def test_any_text_is_read_or_refused_with_its_place(text: str) -> None:
    """Nothing but the one error is raised, its place lies in the text, and what is read can be written."""
    try:
        read = parse_filter(text)
    except FilterSyntaxError as error:
        place, caret = error.position, str(error).splitlines()[-1]
    else:
        assert parse_filter(text_of(read)) == read
        return
    assert 0 <= place <= len(text)
    assert caret == " " * (place + 2) + "^"


@pytest.mark.parametrize(
    ("text", "filter_"),
    [
        ("year>=2020 and tag in (dog, cat)", (YEAR >= 2020) & TAG.one_of("dog", "cat")),
        ("year = 2020", YEAR == 2020),
        ("year == 2020.0", YEAR == 2020.0),
        ("year != 2020", YEAR != 2020),
        ("1990 <= year < 2000", Range("year", Bound(1990, inclusive=True), Bound(2000, inclusive=False))),
        ("a=1 or b=2 and c=3", AnyOf((Equals("a", 1), AllOf((Equals("b", 2), Equals("c", 3)))))),
        ("(a=1 or b=2) and c=3", AllOf((AnyOf((Equals("a", 1), Equals("b", 2))), Equals("c", 3)))),
        ("not a exists and b exists", AllOf((Not(Exists("a")), Exists("b")))),
        ("not (a exists or b exists)", Not(AnyOf((Exists("a"), Exists("b"))))),
        ("a not exists", Not(Exists("a"))),
        ("a not in (1)", Not(OneOf("a", (1,)))),
        ("a = true", Equals("a", value=True)),
        ('a = "true"', Equals("a", "true")),
        ('a = "it\'s"', Equals("a", "it's")),
        (r"a = 'it\'s \u00fc\n'", Equals("a", "it's ü\n")),
        ("a = 2026-05-04", Equals("a", datetime(2026, 5, 4, tzinfo=UTC))),
        ("a = 2026-05-04T12:00+02:00", Equals("a", datetime(2026, 5, 4, 10, tzinfo=UTC))),
        ("a > 2026-05-04T12:00:00.5Z", Attribute("a") > datetime(2026, 5, 4, 12, 0, 0, 500_000, tzinfo=UTC)),
        ('"2020" = 1', Equals("2020", 1)),
        ("path = photos/2024/a-b.jpg", Equals("path", "photos/2024/a-b.jpg")),
        ("straße=grün", Equals("straße", "grün")),
        ("  a\n=\t1  ", Equals("a", 1)),
    ],
)
def test_the_syntax(text: str, filter_: Filter) -> None:
    """What people write means what they expect."""
    assert repr(parse_filter(text)) == repr(filter_)


@pytest.mark.parametrize(
    ("text", "marked", "words"),
    [
        ("", "", "expected a condition"),
        ("year", "", "expected =, !=, <, <=, >, >=, `in` or `exists` after 'year', not the end"),
        ("year >=", "", "expected a value, not the end"),
        ("year >= 2020 tag = dog", "tag = dog", "expected `and`, `or` or the end, not 'tag'"),
        ("year >= 2020 and", "", "expected a condition"),
        ("(year = 1", "", "expected `)`"),
        ("year = 1)", ")", "not ')'"),
        ("tag in dog", "dog", "expected `(` after `in`"),
        ("tag in ()", ")", "expected a value"),
        ("tag in (dog cat)", "cat)", "expected `)` or `,`"),
        ("tag = and", "and", "quote it if it is meant as text"),
        ("tag = 'dog", "'dog", "the quote is never closed"),
        ("tag ! dog", "! dog", "'!' cannot stand here"),
        ('tag = "a\\qb"', '\\qb"', "stands for no character"),
        ("tag = '\\ud800'", "\\ud800'", "stands for no character"),
        ("2020 = year", "2020 = year", "expected the name of an attribute"),
        ("9999-99-99 = 1", "9999-99-99 = 1", "expected the name of an attribute"),
        ("day = 2026-02-30", "2026-02-30", "no date or time of the calendar"),
        ("n = 9223372036854775808", "9223372036854775808", "at most 64 bits"),
        ("flag > true", "true", "have no order"),
        ("1 <= year <= x", "x", "another kind"),
        ("1 >= year <= 2", ">= year <= 2", "1 <= name < 2"),
        ("not", "", "expected a condition"),
        ("a not = 1", "= 1", "expected `in` or `exists`"),
        ("(" * 60 + "a=1", "(" * 10 + "a=1", "levels deep"),
        ('"" = 1', '"" = 1', "cannot be empty"),
    ],
)
def test_errors_point_at_the_character(text: str, marked: str, words: str) -> None:
    """The caret stands below the place that is at fault, and the sentence says what would be right."""
    with pytest.raises(FilterSyntaxError) as refused:
        parse_filter(text)
    assert text[refused.value.position :] == marked
    description, shown, caret = str(refused.value).split("\n")
    assert words in description
    assert shown[2:] == text
    assert caret == " " * (2 + len(text) - len(marked)) + "^"


def test_a_huge_text_is_refused() -> None:
    """What no server would accept is not read."""
    with pytest.raises(FilterSyntaxError, match="longer than"):
        parse_filter("a=1 or " * 20_000 + "a=1")


def test_builders_make_values() -> None:
    """Operators combine conditions, chains stay flat, and Python's own keywords are refused."""
    assert (YEAR == 1) & (TAG == "x") & TAG.exists() == AllOf((Equals("year", 1), Equals("tag", "x"), Exists("tag")))
    assert (YEAR < 1) | (YEAR > 2) == AnyOf(
        (Range("year", None, Bound(1, inclusive=False)), Range("year", Bound(2, inclusive=False), None))
    )
    assert ~YEAR.between(1, 2) == Not(Range("year", Bound(1, inclusive=True), Bound(2, inclusive=True)))
    assert (YEAR <= 3) == Range("year", None, Bound(3, inclusive=True))
    with pytest.raises(TypeError, match="combine filters with &"):
        bool((YEAR == 1) and (TAG == "x"))


def test_what_has_no_text_is_an_error() -> None:
    """NaN, halves of characters, nothing, and ranges without bounds cannot be written."""
    for filter_ in (Equals("a", math.nan), Equals("a", "\ud800"), AllOf(()), Not(AnyOf(())), Range("a", None, None)):
        with pytest.raises(ValueError, match="no text"):
            text_of(filter_)


def test_a_part_of_its_own_is_written_without_it() -> None:
    """A conjunction of one filter is written as that filter."""
    one = AllOf((AnyOf((Exists("a"), AllOf((AnyOf((Exists("b"), Exists("c"))),)))), Exists("d")))
    assert text_of(AnyOf((AllOf((Exists("a"),)), Not(AnyOf((Exists("b"),)))))) == "a exists or not b exists"
    assert text_of(one) == "(a exists or (b exists or c exists)) and d exists"


def test_instants_are_written_in_utc() -> None:
    """An instant is the same in whatever zone it was given; without one it is UTC."""
    berlin = timezone(timedelta(hours=2))
    for moment in (datetime(2026, 5, 4, 14, tzinfo=berlin), datetime(2026, 5, 4, 12)):  # noqa: DTZ001 - as callers may
        assert text_of(Equals("a", moment)) == "a = 2026-05-04T12:00:00+00:00"
