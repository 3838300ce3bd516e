"""Which items may take part, as typed values: `Attribute("year") >= 2020` and the like. Knows nothing of messages.

    from clip_search.filters import Attribute

    year, tag = Attribute("year"), Attribute("tag")
    client.search("a dog", filter=(year >= 2020) & tag.one_of("dog", "cat") & ~Attribute("private").exists())

Values compare only within their kind, with int and float as one kind; a condition on another kind, or on an attribute
the item lacks, does not match. A list of texts matches when any of its texts does. What a server accepts (how many
conditions, how deep) it tells itself.

Classes are plain values that can be compared, matched and printed; `filter_writer.py` writes them as text.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias, cast

__all__ = [
    "AllOf",
    "AnyOf",
    "Attribute",
    "Bound",
    "Comparable",
    "Equals",
    "Exists",
    "Filter",
    "Not",
    "OneOf",
    "Range",
]

# Instants without a time zone are taken as UTC.
Comparable: TypeAlias = str | bool | int | float | datetime


class _Combinable:
    """What every filter can do: `a & b`, `a | b`, `~a`."""

    __slots__ = ()

    def __and__(self, other: "Filter") -> "AllOf":
        return AllOf((*_parts(self, AllOf), *_parts(other, AllOf)))

    def __or__(self, other: "Filter") -> "AnyOf":
        return AnyOf((*_parts(self, AnyOf), *_parts(other, AnyOf)))

    def __invert__(self) -> "Not":
        return Not(cast("Filter", self))

    def __bool__(self) -> bool:
        raise TypeError("combine filters with & and |, and negate them with ~; `and`, `or`, `not` and a < x < b cannot")


@dataclass(frozen=True, slots=True)
class AllOf(_Combinable):
    """Every one of them matches; at least one is needed."""

    filters: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class AnyOf(_Combinable):
    """At least one of them matches; at least one is needed."""

    filters: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Not(_Combinable):
    """It does not match; so the negation of a comparison also matches items that lack the attribute."""

    filter: "Filter"


@dataclass(frozen=True, slots=True)
class Equals(_Combinable):
    """The attribute equals the value."""

    attribute: str
    value: Comparable


@dataclass(frozen=True, slots=True)
class OneOf(_Combinable):
    """The attribute equals one of the values, which may be of several kinds."""

    attribute: str
    values: tuple[Comparable, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a range; an inclusive one belongs to it."""

    value: Comparable
    inclusive: bool


@dataclass(frozen=True, slots=True)
class Range(_Combinable):
    """The attribute lies between two bounds of one kind: numbers, instants, or texts in byte order of UTF-8."""

    attribute: str
    lower: Bound | None
    upper: Bound | None


@dataclass(frozen=True, slots=True)
class Exists(_Combinable):
    """The item has the attribute, whatever its value."""

    attribute: str


Filter: TypeAlias = AllOf | AnyOf | Not | Equals | OneOf | Range | Exists


class Attribute:
    """An attribute by name, to make conditions of; it has no value itself.

    >>> from clip_search.filter_writer import text_of
    >>> from clip_search.filters import Attribute
    >>> year, tag = Attribute("year"), Attribute("tag")
    >>> text_of((year >= 2020) & ~tag.one_of("indoors", "night"))
    'year >= 2020 and not tag in (indoors, night)'
    """

    __slots__ = ("name",)
    __hash__ = None  # type: ignore[assignment]  # == makes a condition, so it cannot be a key

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, value: Comparable) -> Equals:  # type: ignore[override]
        """Make the condition that the attribute equals the value."""
        return Equals(self.name, value)

    def __ne__(self, value: Comparable) -> Not:  # type: ignore[override]
        """Make the condition that it does not; items without the attribute match too."""
        return Not(Equals(self.name, value))

    def __ge__(self, value: Comparable) -> Range:
        return Range(self.name, Bound(value, inclusive=True), None)

    def __gt__(self, value: Comparable) -> Range:
        return Range(self.name, Bound(value, inclusive=False), None)

    def __le__(self, value: Comparable) -> Range:
        return Range(self.name, None, Bound(value, inclusive=True))

    def __lt__(self, value: Comparable) -> Range:
        return Range(self.name, None, Bound(value, inclusive=False))

    def between(self, at_least: Comparable, at_most: Comparable) -> Range:
        """Make the condition that the attribute lies between two values, both inclusive."""
        return Range(self.name, Bound(at_least, inclusive=True), Bound(at_most, inclusive=True))

    def one_of(self, *values: Comparable) -> OneOf:
        """Make the condition that the attribute equals one of the values."""
        return OneOf(self.name, values)

    def exists(self) -> Exists:
        """Make the condition that the item has the attribute."""
        return Exists(self.name)


def _parts(filter_: _Combinable, kind: type[AllOf] | type[AnyOf]) -> tuple["Filter", ...]:
    """Give the parts of a filter of this kind, so that `a & b & c` is one conjunction of three."""
    if isinstance(filter_, AllOf | AnyOf) and isinstance(filter_, kind):
        return filter_.filters
    return (cast("Filter", filter_),)
