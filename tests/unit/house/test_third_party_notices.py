"""`THIRD_PARTY_NOTICES.md`: every dependency stands there, with the licence that the package itself names."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "THIRD_PARTY_NOTICES.md").read_text(encoding="utf-8")
#: Words by which families of licences are told apart, in whatever way a package writes them.
FAMILIES = ("apache", "mit", "bsd", "mpl", "lgpl", "gpl", "cc.by.sa", "osi")
#: What a package does not say in its metadata in a word that is known here.
SAID_ELSEWHERE = {"torch": "of its parts the metadata names others first"}


def listed() -> dict[str, str]:
    """The table of dependencies: name to licence."""
    table = PAGE.partition("## Dependencies")[2].partition("| --- | --- | --- |\n")[2]
    return dict(re.findall(r"^\| ([\w.-]+) \| ([^|]+) \| [^|]+ \|$", table, re.MULTILINE))


def wanted() -> set[str]:
    """Every dependency that `pyproject.toml` names, of any extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    return {re.split(r"[\[<>=]", each)[0] for each in requirements} - {"clip-search"}


def families(text: str) -> set[str]:
    """The families of licences that a text names."""
    return {family for family in FAMILIES if re.search(rf"\b{family}\b", text.lower().replace("_", " "))}


def said_by(package: str) -> str:
    """What an installed package says of its licence; empty when it says nothing, or is not installed."""
    try:
        about = metadata(package).json
    except PackageNotFoundError:
        return ""
    return str(about.get("license_expression") or about.get("license") or "").partition("\n")[0]


def test_every_dependency_is_listed() -> None:
    """None is missing and none is left over; they stand in the order of their names."""
    names = list(listed())
    assert set(names) == wanted()
    assert names == sorted(names)


@pytest.mark.parametrize("package", sorted(wanted() - SAID_ELSEWHERE.keys()))
def test_the_licence_is_the_packages_own(package: str) -> None:
    """Where the package is installed and names a licence in its metadata."""
    said = families(said_by(package))
    assert said <= families(listed()[package])


def test_a_wrong_licence_is_noticed() -> None:
    """So that the test above can fail."""
    assert families("MIT License") == {"mit"}
    assert not families(said_by("numpy")) <= families("MIT")


def test_what_is_others_in_the_repository_is_there() -> None:
    """Each file that the page names exists, and carries or leads to its licence."""
    paths = re.findall(r"^\| `([\w./-]+)`", PAGE.partition("## What the demo shows")[0], re.MULTILINE)
    assert len(paths) >= 3
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert "Licensed under the Apache License" in (ROOT / "proto/google/rpc/status.proto").read_text(encoding="utf-8")


def test_screenshots_are_credited_where_they_are_shown() -> None:
    """Below each picture of a page that shows the demo's pictures stands OpenMoji's credit."""
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for shown in re.finditer(r"!\[[^\]]*\]\([^)]*images/[^)]*\)", text):
            assert "OpenMoji" in text[shown.end() : shown.end() + 300], f"{page.name}: {shown[0]}"
