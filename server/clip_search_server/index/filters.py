"""Conditions on attributes: a tree, what it means, and what is wrong with it; knows nothing of SQL.

Values compare only within their kind, with int and float as one kind: a condition on another kind, or on an attribute
that the item lacks, does not match. A list of texts matches when any of its texts does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from clip_search_server.errors import InvalidArgumentError
from clip_search_server.index.attributes import (
    Attributes,
    AttributeValue,
    Kind,
    check_text,
    check_value,
    key_of,
    kind_of,
)

Comparable = str | int | float | bool | datetime

_ORDERED_KINDS = frozenset({Kind.TEXT, Kind.NUMBER, Kind.INSTANT})


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every one of them matches."""

    filters: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of them matches."""

    filters: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """It does not match; so the negation of a comparison also matches items that lack the attribute."""

    filter: "Filter"


@dataclass(frozen=True, slots=True)
class Equals:
    """The attribute equals the value."""

    attribute: str
    value: Comparable


@dataclass(frozen=True, slots=True)
class OneOf:
    """The attribute equals one of the values, which may be of several kinds."""

    attribute: str
    values: tuple[Comparable, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a range; an inclusive one belongs to it."""

    value: Comparable
    inclusive: bool


@dataclass(frozen=True, slots=True)
class Range:
    """The attribute lies between two bounds of one kind: numbers, instants, or texts in byte order of UTF-8."""

    attribute: str
    lower: Bound | None
    upper: Bound | None


@dataclass(frozen=True, slots=True)
class Exists:
    """The item has the attribute, whatever its value."""

    attribute: str


Condition = Equals | OneOf | Range | Exists
Filter = AllOf | AnyOf | Not | Condition


def matches(filter_: Filter, attributes: Attributes) -> bool:
    """Return whether an item with these attributes is allowed."""
    match filter_:
        case AllOf(filters):
            return all(matches(each, attributes) for each in filters)
        case AnyOf(filters):
            return any(matches(each, attributes) for each in filters)
        case Not(negated):
            return not matches(negated, attributes)
        case Exists(attribute):
            return attribute in attributes
    value = attributes.get(filter_.attribute)
    if value is None:
        return False
    values = value if isinstance(value, tuple) else (value,)
    return any(_meets(filter_, each) for each in values)


def _meets(condition: Equals | OneOf | Range, value: Comparable) -> bool:
    match condition:
        case Equals(_, wanted):
            return _same(value, wanted)
        case OneOf(_, wanted_values):
            return any(_same(value, wanted) for wanted in wanted_values)
        case Range(_, lower, upper):
            return (lower is None or _is_above(value, lower)) and (upper is None or _is_below(value, upper))


def _same(value: Comparable, wanted: Comparable) -> bool:
    return kind_of(value) == kind_of(wanted) and key_of(value) == key_of(wanted)


def _is_above(value: Comparable, bound: Bound) -> bool:
    if kind_of(value) != kind_of(bound.value):
        return False
    # Keys of one kind are of one type.
    key, limit = key_of(value), key_of(bound.value)
    return key > limit or (bound.inclusive and key == limit)  # type: ignore[operator]


def _is_below(value: Comparable, bound: Bound) -> bool:
    if kind_of(value) != kind_of(bound.value):
        return False
    key, limit = key_of(value), key_of(bound.value)
    return key < limit or (bound.inclusive and key == limit)  # type: ignore[operator]


def check_filter(filter_: Filter, *, conditions_max: int, depth_max: int, field: str = "filter") -> None:
    """Raise InvalidArgumentError, naming the field by its path in the API, for a filter that cannot be evaluated.

    Args:
        filter_: what to check.
        conditions_max: how many conditions the tree may have, and how many values a `OneOf`.
        depth_max: how deep it may be; a condition alone is 1 deep.
        field: path of the filter itself.
    """
    waiting: list[tuple[Filter, str, int]] = [(filter_, field, 1)]
    count = 0
    while waiting:
        node, path, depth = waiting.pop()
        count += 1
        if depth > depth_max:
            raise InvalidArgumentError(field, f"is more than {depth_max} conditions deep")
        if count > conditions_max:
            raise InvalidArgumentError(field, f"has more than {conditions_max} conditions")
        _check_node(node, path, conditions_max)
        waiting.extend((child, child_path, depth + 1) for child, child_path in _children(node, path))


def _children(node: Filter, path: str) -> Iterator[tuple[Filter, str]]:
    match node:
        case AllOf(filters):
            yield from ((each, f"{path}.all_of.filters[{at}]") for at, each in enumerate(filters))
        case AnyOf(filters):
            yield from ((each, f"{path}.any_of.filters[{at}]") for at, each in enumerate(filters))
        case Not(negated):
            yield negated, f"{path}.negation"


def _check_node(node: Filter, path: str, values_max: int) -> None:
    match node:
        case AllOf(filters) | AnyOf(filters):
            if not filters:
                name = "all_of" if isinstance(node, AllOf) else "any_of"
                raise InvalidArgumentError(f"{path}.{name}.filters", "is empty; at least one condition is needed")
        case Equals(attribute, value):
            _check_name(attribute, f"{path}.equals")
            _check_comparable(value, f"{path}.equals.value")
        case OneOf(attribute, values):
            _check_name(attribute, f"{path}.in_set")
            if not 1 <= len(values) <= values_max:
                raise InvalidArgumentError(
                    f"{path}.in_set.values", f"has {len(values)} entries; 1 to {values_max} are accepted"
                )
            for at, value in enumerate(values):
                _check_comparable(value, f"{path}.in_set.values[{at}]")
        case Range():
            _check_range(node, f"{path}.range")
        case Exists(attribute):
            _check_name(attribute, f"{path}.exists")
        case Not():
            pass


def _check_range(node: Range, path: str) -> None:
    _check_name(node.attribute, path)
    kinds = set()
    for bound, names in ((node.lower, ("greater_than", "at_least")), (node.upper, ("less_than", "at_most"))):
        if bound is None:
            continue
        field = f"{path}.{names[bound.inclusive]}"
        _check_comparable(bound.value, field)
        kinds.add(kind_of(bound.value))
        if kinds - _ORDERED_KINDS:
            raise InvalidArgumentError(field, "has no order; bounds are numbers, timestamps or strings")
        if len(kinds) > 1:
            raise InvalidArgumentError(field, "is of another kind than the lower bound")
    if not kinds:
        raise InvalidArgumentError(path, "has no bound; set a lower or an upper one")


def _check_name(attribute: str, path: str) -> None:
    if not attribute:
        raise InvalidArgumentError(f"{path}.attribute", "is empty; name an attribute")
    check_text(attribute, f"{path}.attribute")


def _check_comparable(value: AttributeValue, field: str) -> None:
    if isinstance(value, tuple):
        raise InvalidArgumentError(field, "is a list; compare with one text, which matches lists that hold it")
    check_value(value, field)
