r"""Filters as text, for command lines: `year>=2020 and tag in (dog, cat)`. Knows nothing of messages and terminals.

    filter      = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | "(" filter ")" | condition
    condition   = name ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
                | name [ "not" ] "in" "(" value { "," value } ")"
                | name [ "not" ] "exists"
                | value ( "<" | "<=" ) name ( "<" | "<=" ) value
    name        = word | quoted
    value       = word | quoted | number | "true" | "false" | instant
    number      = such as 7, -2.5, 1e6, inf
    instant     = such as 2026-05-04, 2026-05-04T12:30, 2026-05-04T12:30:00.5+02:00; without a zone it is UTC
    word        = characters other than white space and ( ) , = ! < > " '
    quoted      = "…" or '…', in which \" \' \\ \n \t \uXXXX \UXXXXXXXX stand for a character

`and` binds tighter than `or`, `not` tightest. Keywords are lower case; a name or text that is one of them (`and`, `or`,
`not`, `in`, `exists`, `true`, `false`), or that reads as a number or an instant, is quoted: `title = "2026"`. `==` is
read as `=`. `a != 1` is `not a = 1`: it also matches items that have no `a`. `a <= x < b` is one range: of a list, one
text has to meet both bounds.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from clip_search.filters import (
    AllOf,
    AnyOf,
    Bound,
    Comparable,
    Equals,
    Exists,
    Filter,
    Not,
    OneOf,
    Range,
)

__all__ = ["FilterSyntaxError", "is_bare", "parse_filter"]

# Deeper than any server accepts; it keeps a hostile text from exhausting the stack.
_DEPTH_MAX = 50
_LENGTH_MAX = 100_000

_KEYWORDS = frozenset({"and", "or", "not", "in", "exists", "true", "false"})
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<symbol><=|>=|!=|==|[()=<>,])
      | (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<word>[^\s()=!<>,"']+)
    )""",
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"""[^\s()=!<>,"']+""")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?inf")
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt][0-9:.,]+(?:[Zz]|[+-][0-9:]+)?)?")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", '"': '"', "'": "'", "\\": "\\"}
_INTEGER_BITS = 63
_CODE_POINT_MAX = 0x10FFFF


class FilterSyntaxError(ValueError):
    """A text is no filter.

    Args:
        description: what is wrong at the place and what would be right.
        text: the whole text.
        position: index of the character that is at fault; the length of the text where something is missing at its end.
    """

    def __init__(self, description: str, text: str, position: int) -> None:
        self.description = description
        self.text = text
        self.position = position
        # One line above the caret, whatever the text holds.
        shown = "".join(" " if not character.isprintable() else character for character in text)
        super().__init__(f"{description}\n  {shown}\n  {' ' * position}^")


@dataclass(frozen=True, slots=True)
class _Token:
    """A piece of the text; `kind` is symbol, quoted, word or end."""

    kind: str
    text: str
    position: int

    def shown(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text) if self.kind != "quoted" else self.text


def parse_filter(text: str) -> Filter:
    """Read a filter.

    >>> from clip_search.filter_text import FilterSyntaxError, parse_filter
    >>> [item.id for item in client.list_items(filter=parse_filter("year >= 2020")).items]
    ['fruit/pear', 'sea/whale']
    >>> try:
    ...     parse_filter("year >= ")
    ... except FilterSyntaxError as error:
    ...     print(str(error).splitlines()[0])
    expected a value, not the end

    Raises:
        FilterSyntaxError: the text is none; says where and why.
    """
    return _Parser(text).parse()


class _Parser:
    """Reads by recursive descent, a method for each rule of the grammar."""

    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) > _LENGTH_MAX:
            raise FilterSyntaxError(f"the filter is longer than {_LENGTH_MAX:,} characters", text[:60], 60)
        self._tokens = _tokens_of(text)
        self._at = 0
        self._depth = 0

    def parse(self) -> Filter:
        filter_ = self._filter()
        if self._next.kind != "end":
            raise self._error(f"expected `and`, `or` or the end, not {self._next.shown()}")
        return filter_

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        self._at += token.kind != "end"
        return token

    def _takes(self, *texts: str) -> _Token | None:
        """Take the next token if it is one of these symbols or keywords, unquoted."""
        is_one = self._next.kind != "quoted" and self._next.text in texts
        return self._take() if is_one and self._next.kind != "end" else None

    def _expect(self, text: str, *, after: str) -> None:
        if self._takes(text) is None:
            raise self._error(f"expected `{text}` {after}, not {self._next.shown()}")

    def _error(self, description: str, token: _Token | None = None) -> FilterSyntaxError:
        return FilterSyntaxError(description, self._text, (token or self._next).position)

    def _filter(self) -> Filter:
        return self._chain("or", self._conjunction, AnyOf)

    def _conjunction(self) -> Filter:
        return self._chain("and", self._negation, AllOf)

    def _chain(self, keyword: str, part: Callable[[], Filter], kind: type[AllOf] | type[AnyOf]) -> Filter:
        parts = [part()]
        while self._takes(keyword):
            parts.append(part())
        return parts[0] if len(parts) == 1 else kind(tuple(parts))

    def _negation(self) -> Filter:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise self._error(f"the filter is more than {_DEPTH_MAX} levels deep")
        try:
            if self._takes("not"):
                return Not(self._negation())
            if self._takes("("):
                inner = self._filter()
                self._expect(")", after="after the condition")
                return inner
            return self._condition()
        finally:
            self._depth -= 1

    def _condition(self) -> Filter:
        first = self._operand("a condition, such as year >= 2020")
        if self._next.kind == "symbol" and self._tokens[min(self._at + 2, len(self._tokens) - 1)].text in {"<", "<="}:
            return self._between(first)
        name = self._name_of(first)
        if symbol := self._takes("=", "==", "!=", "<", "<=", ">", ">="):
            return self._comparison(name, symbol)
        negated = self._takes("not") is not None
        if self._takes("exists"):
            condition: Filter = Exists(name)
        elif self._takes("in"):
            condition = OneOf(name, self._values())
        else:
            wanted = "`in` or `exists`" if negated else "=, !=, <, <=, >, >=, `in` or `exists`"
            raise self._error(f"expected {wanted} after {first.shown()}, not {self._next.shown()}")
        return Not(condition) if negated else condition

    def _comparison(self, name: str, symbol: _Token) -> Filter:
        operand = self._operand("a value")
        value = self._value_of(operand)
        match symbol.text:
            case "=" | "==":
                return Equals(name, value)
            case "!=":
                return Not(Equals(name, value))
        self._check_order(value, operand)
        bound = Bound(value, inclusive=symbol.text in {"<=", ">="})
        return Range(name, bound, None) if symbol.text in {">", ">="} else Range(name, None, bound)

    def _between(self, first: _Token) -> Filter:
        """Read `lower <= name < upper`, of which `first` is the lower bound."""
        bounds = []
        operand, name = first, ""
        for is_lower in (True, False):
            symbol = self._takes("<", "<=")
            if symbol is None:
                raise self._error(f"a range is written as 1 <= name < 2; expected < or <=, not {self._next.shown()}")
            if is_lower:
                name = self._name_of(self._operand("the name of an attribute"))
            else:
                operand = self._operand("a value")
            value = self._value_of(operand)
            self._check_order(value, operand)
            bounds.append(Bound(value, inclusive=symbol.text == "<="))
        lower, upper = bounds
        if _kind(lower.value) is not _kind(upper.value):
            raise self._error("is of another kind than the lower bound; both are numbers, instants or texts", operand)
        return Range(name, lower, upper)

    def _values(self) -> tuple[Comparable, ...]:
        self._expect("(", after="after `in`")
        values = [self._value_of(self._operand("a value"))]
        while self._takes(","):
            values.append(self._value_of(self._operand("a value")))
        self._expect(")", after="or `,` after the value")
        return tuple(values)

    def _operand(self, what: str) -> _Token:
        token = self._next
        is_reserved = token.kind == "word" and token.text in _KEYWORDS - {"true", "false"}
        if token.kind not in {"word", "quoted"} or is_reserved:
            hint = "; quote it if it is meant as text" if is_reserved else ""
            raise self._error(f"expected {what}, not {token.shown()}{hint}")
        return self._take()

    def _name_of(self, token: _Token) -> str:
        name = self._unquoted(token) if token.kind == "quoted" else token.text
        if not name:
            raise self._error("the name of an attribute cannot be empty", token)
        if token.kind == "word" and not is_bare(name):
            raise self._error(f"expected the name of an attribute, not {name!r}; quote it if it is one", token)
        return name

    def _value_of(self, token: _Token) -> Comparable:
        if token.kind == "quoted":
            return self._unquoted(token)
        try:
            return _value_of_word(token.text)
        except ValueError as error:
            raise self._error(f"{error}; quote it if it is meant as text", token) from error

    def _check_order(self, value: Comparable, token: _Token) -> None:
        if isinstance(value, bool):
            raise self._error("true and false have no order; compare them with = or !=", token)

    def _unquoted(self, token: _Token) -> str:
        def replace(match: re.Match[str]) -> str:
            code = match[1] or match[2]
            character = _ESCAPED.get(match[3] or "")
            if code is not None and int(code, 16) <= _CODE_POINT_MAX and not 0xD800 <= int(code, 16) <= 0xDFFF:  # noqa: PLR2004
                return chr(int(code, 16))
            if character is None:
                place = _Token("", "", token.position + 1 + match.start())
                raise self._error(f"{match[0]} stands for no character; a backslash is written as \\\\", place)
            return character

        return _ESCAPE.sub(replace, token.text[1:-1])


def _tokens_of(text: str) -> list[_Token]:
    tokens = []
    position = 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            position += len(text[position:]) - len(text[position:].lstrip())
            is_open = text[position] in "\"'"
            raise FilterSyntaxError(
                "the quote is never closed" if is_open else f"{text[position]!r} cannot stand here", text, position
            )
        kind = match.lastgroup or ""
        tokens.append(_Token(kind, match[kind], match.start(kind)))
        position = match.end()
    return [*tokens, _Token("end", "", len(text))]


def _kind(value: Comparable) -> type:
    return float if isinstance(value, int | float) else type(value)


def _value_of_word(word: str) -> Comparable:
    """Read a word that is not quoted.

    Raises:
        ValueError: it looks like a number or an instant but is none that can be stored.
    """
    if word in {"true", "false"}:
        return word == "true"
    if _INTEGER.fullmatch(word):
        if len(word) > 2 * _INTEGER_BITS or not -(2**_INTEGER_BITS) <= int(word) < 2**_INTEGER_BITS:
            raise ValueError("whole numbers have at most 64 bits")
        return int(word)
    if _NUMBER.fullmatch(word):
        return float(word)
    if _INSTANT.fullmatch(word):
        try:
            moment = datetime.fromisoformat(word)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{word} is no date or time of the calendar") from error
    return word


def is_bare(text: str) -> bool:
    """Tell whether a text reads as itself without quotes, as a name or as a value."""
    if not _WORD.fullmatch(text) or not text.isprintable() or text in _KEYWORDS:
        return False
    try:
        return isinstance(_value_of_word(text), str)
    except ValueError:
        return False
