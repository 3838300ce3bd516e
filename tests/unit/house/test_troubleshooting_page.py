"""`docs/troubleshooting.md` quotes messages that the programs really print."""

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from clip_search_server.limits import Limits

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "troubleshooting.md"
FOLDERS = ("client", "server", "export", "gallery", "photos")
QUOTE_LENGTH_MIN = 12
#: Stands in a message for what is put in when it is raised.
_VALUE = "\0"


def quotes() -> list[str]:
    """The messages that the page quotes: lines that begin with `>`."""
    return re.findall(r"^> (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@functools.cache
def messages() -> tuple[str, ...]:
    """Every text in the source, with a mark where a value is put in."""
    return tuple(
        text
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "_pb2" not in path.name
        for text in _texts(ast.parse(path.read_text(encoding="utf-8")))
    )


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else _VALUE for part in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%(?:[ds]|\.0f)", _VALUE, node.value)


def is_printed(quote: str) -> bool:
    """Tell whether a message of the source begins, goes on and ends as the quote does between its `…`."""
    fixed = [re.escape(part) for part in quote.split("…")]
    pattern = re.compile(".*".join(fixed), re.DOTALL)
    return any(pattern.search(text) for text in messages())


@pytest.mark.parametrize("quote", quotes())
def test_a_quoted_message_is_in_the_source(quote: str) -> None:
    """Word for word but for what differs each time; and enough of it that it could not be any other."""
    assert max(map(len, quote.split("…"))) >= QUOTE_LENGTH_MIN
    assert is_printed(quote)


def test_a_message_that_nobody_prints_is_noticed() -> None:
    """So that the test above can fail."""
    assert len(quotes()) >= 40
    assert not is_printed("the server is on holiday until …; ask another")
    assert not is_printed("check the disk, and restart the server")


def test_every_link_and_option_of_the_page_exists() -> None:
    """Files beside it, and options that some command has."""
    text = PAGE.read_text(encoding="utf-8")
    links = set(re.findall(r"\]\(([^)#]+)", text))
    assert {link for link in links if not (PAGE.parent / link).exists()} == set()
    limits = " ".join(f"--{field.name.replace('_', '-')}" for field in fields(Limits))
    source = "\n".join((*messages(), limits))
    options = set(re.findall(r"`(--[a-z][a-z-]+)", text))
    assert len(options) >= 10
    assert {option for option in options if option not in source} == set()
