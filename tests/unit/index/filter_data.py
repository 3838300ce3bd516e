"""What tests of filters share: strategies for attributes and filters, and filters read by their definition."""

from datetime import UTC, datetime

from hypothesis import strategies as st

from clip_search_server.index import (
    AllOf,
    AnyOf,
    Attributes,
    AttributeValue,
    Bound,
    Comparable,
    Equals,
    Exists,
    Filter,
    Not,
    OneOf,
    Range,
)

# Few names and values, so that conditions meet items; values at the edges of what is stored and compared.
names = st.sampled_from(["a", "b", "ü", "a b", "\0"])
_texts = st.sampled_from(["", "a", "A", "b", "ab", "ü", "\U0001f600", "\uffff", "a\0", "1"])
_numbers: st.SearchStrategy[int | float] = st.sampled_from(
    [
        *(0, 1, -1, 2, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)),
        *(0.0, -0.0, 1.0, 1.5, float(2**53), 9.3e18, -9.3e18, 1e300, float("inf"), float("-inf"), 5e-324),
    ]
)
_instants = st.sampled_from(
    [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2026, 5, 4, 3, 2, 1, 5, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ]
)
comparables: st.SearchStrategy[Comparable] = st.one_of(_texts, _numbers, st.booleans(), _instants)
values: st.SearchStrategy[AttributeValue] = st.one_of(comparables, st.lists(_texts, max_size=3).map(tuple))
attributes = st.dictionaries(names, values, max_size=4)


@st.composite
def _ranges(draw: st.DrawFn) -> Range:
    ends = draw(st.sampled_from([_texts, _numbers, _instants]))
    bounds = st.builds(Bound, ends, st.booleans())
    lower, upper = draw(
        st.one_of(st.tuples(bounds, bounds), st.tuples(bounds, st.none()), st.tuples(st.none(), bounds))
    )
    return Range(draw(names), lower, upper)


conditions: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Equals, names, comparables),
    st.builds(OneOf, names, st.lists(comparables, min_size=1, max_size=4).map(tuple)),
    _ranges(),
    st.builds(Exists, names),
)
filters: st.SearchStrategy[Filter] = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.builds(AllOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(AnyOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(Not, inner),
    ),
    max_leaves=8,
)


def allows(filter_: Filter, facts: Attributes) -> bool:
    """Say whether the filter allows an item, word by word as `filter.proto` defines it."""
    if isinstance(filter_, AllOf):
        return all(allows(each, facts) for each in filter_.filters)
    if isinstance(filter_, AnyOf):
        return any(allows(each, facts) for each in filter_.filters)
    if isinstance(filter_, Not):
        return not allows(filter_.filter, facts)
    if filter_.attribute not in facts:
        return False
    if isinstance(filter_, Exists):
        return True
    value = facts[filter_.attribute]
    return any(_fits(filter_, each) for each in (value if isinstance(value, tuple) else [value]))


def _fits(condition: Equals | OneOf | Range, value: Comparable) -> bool:
    if isinstance(condition, Equals):
        return _order(value, condition.value) == 0
    if isinstance(condition, OneOf):
        return any(_order(value, wanted) == 0 for wanted in condition.values)
    above, below = {1}, {-1}
    if condition.lower is not None:
        above |= {0} if condition.lower.inclusive else set()
        if _order(value, condition.lower.value) not in above:
            return False
    if condition.upper is not None:
        below |= {0} if condition.upper.inclusive else set()
        if _order(value, condition.upper.value) not in below:
            return False
    return True


def _order(left: Comparable, right: Comparable) -> int | None:
    """Return -1, 0 or 1, or None for values of different kinds."""
    for kind in (bool, str, datetime, (int, float)):
        if isinstance(left, kind) or isinstance(right, kind):
            if not (isinstance(left, kind) and isinstance(right, kind)):
                return None
            if kind is str:
                left, right = str(left).encode(), str(right).encode()  # type: ignore[assignment]
            return (left > right) - (left < right)  # type: ignore[operator]
    return None
