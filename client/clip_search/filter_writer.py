"""Filters written as the text that `filter_text.py` reads; knows nothing of messages and terminals."""

import math
import re
from datetime import UTC, datetime

from clip_search.filter_text import is_bare
from clip_search.filters import AllOf, AnyOf, Bound, Comparable, Equals, Exists, Filter, Not, OneOf, Range

__all__ = ["text_of"]

_SURROGATE = re.compile("[\ud800-\udfff]")


def text_of(filter_: Filter) -> str:
    """Write a filter.

    What is read back is the same filter, except that a conjunction or disjunction of a single filter has no text of its
    own: it is written as that filter.

    Raises:
        ValueError: it holds NaN, a range without bounds, or a conjunction or disjunction of nothing.
    """
    match filter_:
        case AllOf(filters) | AnyOf(filters):
            if not filters:
                raise ValueError("a conjunction or disjunction of nothing has no text")
            # What binds tighter needs no parentheses: a conjunction inside a disjunction.
            inner = (AllOf, AnyOf) if isinstance(filter_, AllOf) else (AnyOf,)
            parts = [_in_parentheses(each, *inner) for each in filters] if len(filters) > 1 else [text_of(filters[0])]
            return (" and " if isinstance(filter_, AllOf) else " or ").join(parts)
        case Not(negated):
            return f"not {_in_parentheses(negated, AllOf, AnyOf)}"
        case _:
            return _condition_text(filter_)


def _condition_text(condition: Equals | OneOf | Range | Exists) -> str:
    name = _name_text(condition.attribute)
    match condition:
        case Equals(_, value):
            return f"{name} = {_value_text(value)}"
        case OneOf(_, values):
            return f"{name} in ({', '.join(map(_value_text, values))})"
        case Exists():
            return f"{name} exists"
        case Range(_, lower, upper):
            return _range_text(name, lower, upper)


def _in_parentheses(filter_: Filter, *kinds: type[AllOf] | type[AnyOf]) -> str:
    while isinstance(filter_, AllOf | AnyOf) and len(filter_.filters) == 1:
        filter_ = filter_.filters[0]
    return f"({text_of(filter_)})" if isinstance(filter_, kinds) else text_of(filter_)


def _range_text(name: str, lower: Bound | None, upper: Bound | None) -> str:
    if lower is not None and upper is not None:
        symbols = ["<=" if bound.inclusive else "<" for bound in (lower, upper)]
        return f"{_value_text(lower.value)} {symbols[0]} {name} {symbols[1]} {_value_text(upper.value)}"
    if lower is not None:
        return f"{name} {'>=' if lower.inclusive else '>'} {_value_text(lower.value)}"
    if upper is not None:
        return f"{name} {'<=' if upper.inclusive else '<'} {_value_text(upper.value)}"
    raise ValueError("a range without bounds has no text")


def _name_text(name: str) -> str:
    return name if is_bare(name) else _quoted(name)


def _value_text(value: Comparable) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value if is_bare(value) else _quoted(value)
        case datetime():
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
        case float() if math.isnan(value):
            raise ValueError("NaN compares with nothing, so it has no text")
        case _:
            return repr(value)


def _quoted(text: str) -> str:
    if _SURROGATE.search(text):
        raise ValueError("half of a surrogate pair is no character, so it has no text")
    pieces = []
    for character in text:
        if character in '"\\':
            pieces.append(f"\\{character}")
        elif character.isprintable():
            pieces.append(character)
        else:
            code = ord(character)
            pieces.append(f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}")  # noqa: PLR2004
    return f'"{"".join(pieces)}"'
