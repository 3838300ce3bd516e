from collections.abc import Iterator
from datetime import UTC, datetime

import apsw
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clip_search_server.errors import InvalidArgumentError
from clip_search_server.index import (
    AllOf,
    AnyOf,
    Attributes,
    Bound,
    Comparable,
    Equals,
    Exists,
    Filter,
    Not,
    OneOf,
    Range,
    derived,
)
from clip_search_server.index.filter_sql import driver_of, matching_among, matching_labels, sql_of
from clip_search_server.index.filters import check_filter, matches
from clip_search_server.index.schema import TABLES
from tests.unit.index.filter_data import allows, attributes, filters

WHEN = datetime(2026, 5, 4, tzinfo=UTC)


@pytest.fixture(scope="module")
def connection() -> Iterator[apsw.Connection]:
    """A store in memory."""
    connection = apsw.Connection(":memory:")
    connection.execute(TABLES)
    yield connection
    connection.close()


def _fill(connection: apsw.Connection, items: list[Attributes]) -> None:
    """Let item n have label n."""
    connection.execute("DELETE FROM items; DELETE FROM attributes")
    for label, facts in enumerate(items):
        connection.execute("INSERT INTO items VALUES (?, ?, 0, x'', x'', x'', 0)", (label, str(label).encode()))
        derived.add(connection, label, facts, "")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(attributes, max_size=12), filters, st.sampled_from([0, 1, 5, 1000]))
@example([{"a": 2**53}, {"a": 2**53 + 1}, {"a": float(2**53)}], Equals("a", float(2**53)), 5)
@example([{"a": 2**63 - 1}, {"a": 9.3e18}], Range("a", Bound(9.2e18, inclusive=True), None), 5)
@example([{"a": ("b", "c")}], Range("a", Bound("b", inclusive=False), Bound("c", inclusive=False)), 5)
@example([{"a": ()}, {}], Exists("a"), 5)
@example([{"a": True}, {"a": 1}], Equals("a", value=True), 5)
def test_sql_agrees_with_the_definition(
    connection: apsw.Connection, items: list[Attributes], filter_: Filter, rows_max: int
) -> None:
    """Whatever the tree and the items, every way of asking gives what the definition says of each item."""
    check_filter(filter_, conditions_max=256, depth_max=64)
    _fill(connection, items)
    wanted = [label for label, facts in enumerate(items) if allows(filter_, facts)]
    assert [label for label, facts in enumerate(items) if matches(filter_, facts)] == wanted
    every = np.arange(-1, len(items) + 1)
    assert sorted(matching_among(connection, filter_, every).tolist()) == wanted
    driver = driver_of(connection, filter_, rows_max)
    assert matching_labels(connection, filter_, driver).tolist() == wanted
    assert len(wanted) <= driver.row_count or driver.row_count > rows_max


def test_each_question_uses_its_index(connection: apsw.Connection) -> None:
    """No condition walks through entries of other names, kinds or labels."""
    _fill(connection, [])
    filter_ = AllOf(
        (Equals("a", 1), OneOf("b", ("x", 2, 2.5)), Range("c", Bound(1, inclusive=True), None), Exists("d"))
    )
    test = sql_of(filter_, "items.label")
    plan = _plan(connection, f"SELECT 1 FROM items WHERE {test.text}", test.bindings)
    steps = [step for step in plan if "attributes" in step]
    assert len(steps) == 6
    assert all("SEARCH" in step and "label=?" in step and "name=?" in step for step in steps), plan
    driver = driver_of(connection, AnyOf(filter_.filters), 9)
    assert driver.scans is not None
    for scan in driver.scans:
        statement = f"SELECT label FROM attributes INDEXED BY attributes_by_key WHERE {scan.text}"
        plan = _plan(connection, statement, scan.bindings)
        assert any("SEARCH attributes USING COVERING INDEX attributes_by_key (name=?" in step for step in plan), plan


def _plan(connection: apsw.Connection, statement: str, bindings: tuple[object, ...]) -> list[str]:
    return [str(row[-1]) for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", bindings)]


def test_a_conjunction_is_driven_by_its_smallest_child(connection: apsw.Connection) -> None:
    """What is tested are the rows of the rarest condition, wherever it stands; negations drive nothing."""
    _fill(connection, [{"common": 1, "rare": at} for at in range(50)])
    rare, common = Equals("rare", 7), Equals("common", 1)
    for filter_ in (AllOf((common, rare)), AllOf((rare, common)), AllOf((Not(common), AllOf((common, rare))))):
        assert driver_of(connection, filter_, 1000).row_count == 1
    assert driver_of(connection, AnyOf((rare, common)), 1000).row_count == 51
    assert driver_of(connection, AnyOf((rare, Not(common))), 1000).scans is None
    assert driver_of(connection, common, 10).row_count == 11


def test_the_largest_filters_are_answered(connection: apsw.Connection) -> None:
    """At the bounds on conditions, values, kinds and depth no bound of SQLite is met."""
    _fill(connection, [{"a": 1}, {"a": "x"}, {"b": 2}])
    mixed: list[Comparable] = [True, WHEN, 2.5, *(f"{at}" for at in range(200)), *range(2, 55)]
    for wide in (AnyOf, AllOf):
        tree = wide((*(OneOf(f"n{at}", tuple(mixed)) for at in range(254)), Equals("a", 1)))
        check_filter(tree, conditions_max=256, depth_max=16)
        found = matching_labels(connection, tree, driver_of(connection, tree, 1000)).tolist()
        assert found == matching_among(connection, tree, np.arange(3)).tolist() == ([0] if wide is AnyOf else [])
    deep: Filter = Equals("a", 1)
    for _ in range(15):
        deep = Not(deep)
    check_filter(deep, conditions_max=256, depth_max=16)
    assert matching_labels(connection, deep, driver_of(connection, deep, 1000)).tolist() == [1, 2]


def _nested(depth: int) -> Filter:
    filter_: Filter = Exists("a")
    for _ in range(depth - 1):
        filter_ = Not(filter_)
    return filter_


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (AllOf(()), "filter.all_of.filters"),
        (Not(AnyOf(())), "filter.negation.any_of.filters"),
        (Equals("", 1), "filter.equals.attribute"),
        (Equals("\ud800", 1), "filter.equals.attribute"),
        (Equals("a", float("nan")), "filter.equals.value"),
        (Equals("a", ("x",)), "filter.equals.value"),  # type: ignore[arg-type]
        (Equals("a", 2**63), "filter.equals.value"),
        (Equals("a", "\ud800"), "filter.equals.value"),
        (OneOf("a", ()), "filter.in_set.values"),
        (OneOf("a", tuple(range(257))), "filter.in_set.values"),
        (OneOf("a", (1, float("nan"))), "filter.in_set.values[1]"),
        (Range("a", None, None), "filter.range"),
        (Range("a", Bound(float("nan"), inclusive=False), None), "filter.range.greater_than"),
        (Range("a", None, Bound(float("nan"), inclusive=True)), "filter.range.at_most"),
        (Range("a", Bound(value=True, inclusive=True), None), "filter.range.at_least"),
        (Range("a", Bound(1, inclusive=True), Bound("1", inclusive=False)), "filter.range.less_than"),
        (Exists(""), "filter.exists.attribute"),
        (
            AllOf((Exists("a"), AnyOf((Exists("a"), Exists(""))))),
            "filter.all_of.filters[1].any_of.filters[1].exists.attribute",
        ),
        (AllOf((Exists("a"),) * 256), "filter"),
        (_nested(17), "filter"),
        (_nested(100_000), "filter"),
    ],
)
def test_bad_filters_are_named(bad: Filter, field: str) -> None:
    """Each refusal names the condition by its path in the API."""
    with pytest.raises(InvalidArgumentError) as refused:
        check_filter(bad, conditions_max=256, depth_max=16)
    assert refused.value.field == field


def test_filters_at_the_bounds_are_accepted() -> None:
    """The bounds themselves are allowed."""
    check_filter(AllOf((Exists("a"),) * 255), conditions_max=256, depth_max=16)
    check_filter(_nested(16), conditions_max=256, depth_max=16)
    check_filter(OneOf("a", tuple(range(256))), conditions_max=256, depth_max=16)
