"""What `docs/understanding.md` points at is there."""

import re
from pathlib import Path

from click.testing import CliRunner

from clip_search_evaluation.evaluate_command import evaluate

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "understanding.md").read_text(encoding="utf-8")


def test_every_file_that_it_names_is_there() -> None:
    """Relative to the checkout, to the docs, or to the package it is about."""
    roots = (ROOT, ROOT / "docs", ROOT / "evaluation" / "clip_search_evaluation")
    names = re.findall(r"`([a-z_0-9/-]+\.(?:py|md))`", PAGE)
    assert len(names) > 20
    assert [name for name in names if not any((root / name).is_file() for root in roots)] == []


def test_every_option_that_it_names_is_one() -> None:
    """Of `clip-search evaluate`."""
    options = CliRunner().invoke(evaluate, ["--help"]).output
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE))
    assert {"--compare", "--html", "--json"} <= named
    assert [option for option in sorted(named) if option not in options] == []
