import json

import pytest

from clip_search.cli.output import json_line, safe_text
from clip_search.cli.tables import bar, human_bytes

# Colour, window title, one-byte CSI, line breaks, backwards text, half a surrogate pair.
HOSTILE = "\x1b[31mred\x1b]0;title\x07 \x9b2J a\r\nb\tc \u202egnp.exe \u2028 \udce9 \x7f"


def test_nothing_that_steers_a_terminal_is_left() -> None:
    """Control characters and marks of direction become visible escapes on one line."""
    shown = safe_text(HOSTILE)
    assert shown == r"\x1b[31mred\x1b]0;title\x07 \x9b2J a\r\nb\tc \u202egnp.exe \u2028 \udce9 \x7f"
    assert shown.isprintable()


@pytest.mark.parametrize("text", ["photos/été 🚲/[bold]x[/bold].png", "家族 👩\u200d👧", "a\\nb"])
def test_ordinary_text_is_left_alone(text: str) -> None:
    """Letters of any script, emoji and what looks like markup stay as they are."""
    assert safe_text(text) == text


def test_json_is_exact_and_safe() -> None:
    """JSON gives every character back, and holds none that steers a terminal."""
    line = json_line({"id": HOSTILE, "other": "été 🚲"})
    assert json.loads(line) == {"id": HOSTILE, "other": "été 🚲"}
    assert line.isprintable()
    assert "été 🚲" in line


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, ""), (1.0, "█" * 32), (0.5, "█" * 16), (1 / 64, "▌"), (1.5, "█" * 32)]
)
def test_bars_are_as_long_as_their_share(share: float, expected: str) -> None:
    """Bars are drawn in eighths of a character and all take the same room."""
    assert bar(share).rstrip() == expected
    assert len(bar(share)) == 32


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**30, "5.0 GiB"), (2**41, "2.0 TiB")]
)
def test_bytes_are_told_in_units_people_know(count: int, expected: str) -> None:
    """Sizes have one decimal and a binary unit."""
    assert human_bytes(count) == expected
