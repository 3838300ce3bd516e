"""Safe text and JSON for terminals and pipes; knows nothing of servers, and imports nothing heavy.

Ids, attributes and messages come from elsewhere. Printed as they are, their control characters would be obeyed by the
terminal: colours, cursor moves, a changed window title, text that runs backwards. So these characters are shown as
escapes. Results go to stdout, everything else to stderr.
"""

import json
import re
from typing import Any

import click

__all__ = ["CommandError", "json_line", "print_document", "print_note", "report_error", "safe_text"]

# Control characters, halves of surrogate pairs, line separators, and the marks that turn the direction of text.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BYTE_MAX = 0xFF


class CommandError(click.ClickException):
    """Something that went wrong on this side of the connection; `code` names the kind in JSON.

    Args:
        message: what is wrong and what to do.
        code: `FILE` for a file that cannot be read or written, `INTERRUPTED`, `NOT_FOUND`, …
        facts: further keys of the JSON error.
    """

    def __init__(self, message: str, *, code: str, **facts: Any) -> None:  # noqa: ANN401  # any JSON value
        super().__init__(message)
        self.code = code
        self.facts = facts


def safe_text(text: str) -> str:
    """Give text with every character that could steer a terminal shown as an escape, on one line."""
    return _UNSAFE.sub(_escape_for_people, text)


def _escape_for_people(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT_ESCAPES.get(character) or (f"\\x{code:02x}" if code <= _BYTE_MAX else f"\\u{code:04x}")


def json_line(document: Any) -> str:  # noqa: ANN401  # any JSON value
    """Give a document as one line of JSON that no terminal obeys.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)  # such characters occur inside strings only


def print_document(document: Any) -> None:  # noqa: ANN401  # any JSON value
    """Print a JSON document on stdout."""
    click.echo(json_line(document))


def print_note(text: str) -> None:
    """Tell a person something beside the results, on stderr."""
    click.echo(safe_text(text), err=True)


def report_error(message: str, *, as_json: bool, code: str, **facts: Any) -> None:  # noqa: ANN401  # any JSON value
    """Report an error on stderr: a line for people, or a JSON object with `code`, `message` and further facts."""
    if as_json:
        click.echo(json_line({"error": {"code": code, "message": message, **facts}}), err=True)
    else:
        click.echo(f"error: {safe_text(message)}", err=True)
