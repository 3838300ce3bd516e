"""The table that says which test covers which fault is held to the tests there are; quick, without a marker."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")


def test_every_test_that_the_table_names_exists() -> None:
    """Functions and files alike, so that renaming one shows here."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    named = set(re.findall(r"`((?:test|assert)_\w+)`", README))
    assert len(named) >= 60
    assert {name for name in named if f"def {name}(" not in source} == set()
    files = set(re.findall(r"`((?:[\w/]+/)?\w+\.py)`", README))
    assert {
        name for name in files if not (ROOT / name).exists() and not Path(__file__).with_name(name).exists()
    } == set()


def test_no_fault_is_without_a_test() -> None:
    """Each row of each table names at least one test, function or file, in its last column."""
    rows = [line for line in README.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    assert len(rows) >= 35
    assert [row for row in rows if "`" not in row.split("|")[-2] and not re.search("where|tests", row)] == []
