"""Filters as SQL over the entries of attributes, every value bound; knows nothing of vectors.

A condition is asked in two ways, each by an index that leads to its entries at once:

- of some labels: does this label have such an entry?
- of all: which labels have such an entry? (`attributes_by_key`, by name, kind and key)

All labels that a tree allows are found by *driving* with as few rows as possible and testing the tree on them: a
conjunction is driven by the child that is known to have fewest rows, a disjunction by all of its children, and what
only a negation limits by all items.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias, cast

import apsw
import numpy as np

from clip_search_server.index.attributes import Key, Kind, key_of, kind_of
from clip_search_server.index.filters import AllOf, AnyOf, Condition, Equals, Filter, Not, OneOf, Range
from clip_search_server.index.types import IntArray

# In quotes: the type has this name in the stubs alone.
_Binding: TypeAlias = "Key | apsw.CArrayBinding"
_HAS = "EXISTS (SELECT 1 FROM attributes WHERE label = {label} AND {test})"
_SCAN = "SELECT label FROM attributes INDEXED BY attributes_by_key WHERE {test}"
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM attributes INDEXED BY attributes_by_key WHERE {test} LIMIT ?)"
_AMONG = "SELECT items.label FROM carray(?) AS wanted CROSS JOIN items ON items.label = wanted.value WHERE {test}"

_ALL = "1"
# SQLite joins at most 500 selects.
_SCANS_MAX = 400


@dataclass(frozen=True, slots=True)
class Sql:
    """A piece of SQL and its bindings, in order."""

    text: str
    bindings: tuple[_Binding, ...] = ()


@dataclass(frozen=True, slots=True)
class Driver:
    """Entries whose labels include all that a filter allows.

    Attributes:
        scans: which entries; None stands for all items.
        row_count: how many they are; counting stops at the number that was given as the most of interest.
        is_exact: each of these labels is allowed, so that nothing is left to test.
    """

    scans: tuple[Sql, ...] | None
    row_count: int
    is_exact: bool


def sql_of(filter_: Filter | None, label: str) -> Sql:
    """Return a condition that holds where the SQL expression `label` is a label that the filter allows."""
    match filter_:
        case None:
            return Sql(_ALL)
        case AllOf(filters):
            return _joined(" AND ", [sql_of(each, label) for each in filters])
        case AnyOf(filters):
            return _joined(" OR ", [sql_of(each, label) for each in filters])
        case Not(negated):
            inner = sql_of(negated, label)
            return Sql(f"(NOT {inner.text})", inner.bindings)
        case _:
            # The plus keeps SQLite from looking up each of many keys, where the label alone leads to a few entries.
            entries = [Sql(each.text.replace("key IN", "+key IN"), each.bindings) for each in _entries_of(filter_)]
            return _joined(" OR ", [Sql(_HAS.format(label=label, test=each.text), each.bindings) for each in entries])


def matching_among(connection: apsw.Connection, filter_: Filter | None, labels: IntArray) -> IntArray:
    """Return those labels that have an item, and one that the filter allows, in no order."""
    if not len(labels):
        return labels
    test = sql_of(filter_, "items.label")
    return labels_from(connection.execute(_AMONG.format(test=test.text), (array_of(labels), *test.bindings)))


def driver_of(connection: apsw.Connection, filter_: Filter, rows_max: int) -> Driver:
    """Return what to drive the search for all allowed labels with.

    Args:
        connection: where to count.
        filter_: the filter.
        rows_max: a driver with more rows than this is as good as any other.
    """
    match filter_:
        case AllOf(filters):
            best = Driver(None, rows_max + 1, is_exact=False)
            for each in filters:
                # No child is counted beyond the best so far: all counts together cost a few times the smallest.
                driver = driver_of(connection, each, min(rows_max, best.row_count))
                if best.scans is None or (driver.scans is not None and driver.row_count < best.row_count):
                    best = driver
            return dataclasses.replace(best, is_exact=best.is_exact and len(filters) == 1)
        case AnyOf(filters):
            drivers = [driver_of(connection, each, rows_max) for each in filters]
            scans = tuple(scan for driver in drivers for scan in driver.scans or ())
            if len(scans) > _SCANS_MAX or any(driver.scans is None for driver in drivers):
                return Driver(None, rows_max + 1, is_exact=False)
            return Driver(
                scans,
                sum(driver.row_count for driver in drivers),
                is_exact=all(driver.is_exact for driver in drivers),
            )
        case Not():
            return Driver(None, rows_max + 1, is_exact=False)
        case _:
            entries = _entries_of(filter_)
            return Driver(entries, sum(_count(connection, each, rows_max) for each in entries), is_exact=True)


def matching_labels(connection: apsw.Connection, filter_: Filter, driver: Driver) -> IntArray:
    """Return every label that the filter allows, ascending."""
    test = Sql(_ALL) if driver.is_exact else sql_of(filter_, "driving.label")
    source = Sql("items") if driver.scans is None else _union(driver.scans)
    statement = f"SELECT driving.label FROM {source.text} AS driving WHERE {test.text}"  # noqa: S608 - values are bound
    # A list may have several entries that match, and so may an item in a disjunction.
    found: IntArray = np.unique(labels_from(connection.execute(statement, (*source.bindings, *test.bindings))))
    return found


def array_of(labels: IntArray) -> "apsw.CArrayBinding":
    """Return one or more labels as a binding for `carray(?)`."""
    return apsw.carray(np.ascontiguousarray(labels), flags=apsw.SQLITE_CARRAY_INT64)


def _entries_of(condition: Condition) -> tuple[Sql, ...]:
    """Return conditions on the columns of an entry, one of which holds for an entry that meets the condition."""
    name = condition.attribute.encode()
    match condition:
        case Equals(_, value):
            return (Sql("name = ? AND kind = ? AND key = ?", (name, kind_of(value).value, key_of(value))),)
        case OneOf(_, values):
            return tuple(
                Sql("name = ? AND kind = ? AND key IN (SELECT value FROM carray(?))", (name, kind.value, keys))
                for kind, keys in _arrays_of((kind_of(value), key_of(value)) for value in values)
            )
        case Range():
            return (_range(name, condition),)
        case _:
            return (Sql("name = ?", (name,)),)


def _range(name: bytes, condition: Range) -> Sql:
    lower, upper = condition.lower, condition.upper
    bound = lower or upper
    if bound is None:
        raise AssertionError("a range without bounds passed its check. This is a bug.")
    text = "name = ? AND kind = ?"
    bindings: list[Key] = [name, kind_of(bound.value).value]
    if lower is not None:
        text += f" AND key {'>=' if lower.inclusive else '>'} ?"
        bindings.append(key_of(lower.value))
    if upper is not None:
        text += f" AND key {'<=' if upper.inclusive else '<'} ?"
        bindings.append(key_of(upper.value))
    return Sql(text, tuple(bindings))


def _arrays_of(keys: Iterable[tuple[Kind, Key]]) -> Iterable[tuple[Kind, "apsw.CArrayBinding"]]:
    """Yield one array for each kind and type of key: an array of SQLite's holds one type."""
    by_type: dict[tuple[Kind, type], list[Key]] = {}
    for kind, key in keys:
        by_type.setdefault((kind, type(key)), []).append(key)
    for (kind, key_type), some in by_type.items():
        if key_type is bytes:
            yield kind, apsw.carray(cast("tuple[bytes, ...]", tuple(some)), flags=apsw.SQLITE_CARRAY_BLOB)
        elif key_type is int:
            yield kind, apsw.carray(np.array(some, dtype=np.int64), flags=apsw.SQLITE_CARRAY_INT64)
        else:
            yield kind, apsw.carray(np.array(some, dtype=np.float64), flags=apsw.SQLITE_CARRAY_DOUBLE)


def _count(connection: apsw.Connection, entries: Sql, rows_max: int) -> int:
    found = connection.execute(_COUNT.format(test=entries.text), (*entries.bindings, rows_max + 1)).get
    return cast("int", found)


def _union(scans: Iterable[Sql]) -> Sql:
    scans = tuple(scans)
    text = " UNION ALL ".join(_SCAN.format(test=scan.text) for scan in scans)
    return Sql(f"({text})", tuple(binding for scan in scans for binding in scan.bindings))


def _joined(operator: str, parts: Sequence[Sql]) -> Sql:
    """Join in halves: SQLite bounds how deep an expression may be, and `a OR b OR c OR …` counts as a deep one."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    left, right = _joined(operator, parts[:half]), _joined(operator, parts[half:])
    return Sql(f"({left.text}{operator}{right.text})", left.bindings + right.bindings)


def labels_from(rows: Iterable[tuple[object, ...]]) -> IntArray:
    """Return the labels that a statement selects."""
    # Without a line of Python for each row: there may be a million.
    return np.fromiter(cast("Iterable[int]", chain.from_iterable(rows)), dtype=np.int64)
