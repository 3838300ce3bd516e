"""Reads the licence that a checkpoint's model card names; knows nothing else of the card."""

import re
from pathlib import Path

__all__ = ["read_licence"]

_LICENCE_LINE = re.compile(r"^licen[cs]e:\s*[\"']?([^\s\"']+)", re.MULTILINE)
_README_CHARACTERS_MAX = 10_000


def read_licence(folder: Path) -> str | None:
    """Return the licence that the model card names in its front matter, if there is one."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")[:_README_CHARACTERS_MAX]
    if not text.startswith("---"):
        return None
    found = _LICENCE_LINE.search(text.split("\n---", 2)[0])
    return found.group(1) if found else None
