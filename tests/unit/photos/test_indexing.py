"""Which indexed photos count as gone, and what becomes of them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clip_search_photos import indexing
from clip_search_photos.indexing import Census, forget, index, take_census

ADDRESS = "127.0.0.1:1"


def _item(path: Path, identifier: str = "") -> dict[str, Any]:
    return {"id": identifier or path.name, "attributes": {"path": str(path)}}


def _photos(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03}.jpg" for number in range(count)]
    for path in paths:
        path.touch()
    return paths


class Programs:
    """Stands for `search_client`: answers `list`, and keeps what it was called with."""

    def __init__(self, items: Sequence[dict[str, Any]]) -> None:
        self.items = items
        self.deletions: list[list[str]] = []

    def ask(self, program: str, arguments: Sequence[str]) -> str:
        """Answer."""
        assert program == "search_client"
        if "list" in arguments:
            return json.dumps({"items": self.items, "next_page_token": ""})
        self.deletions.append(list(arguments[arguments.index("--") + 1 :]))
        return ""


@pytest.fixture
def forget_from(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `forget` over items, and gives the deletions."""

    def run(items: Sequence[dict[str, Any]], folder: Path, *, however_many: bool = False) -> list[list[str]]:
        programs = Programs(items)
        monkeypatch.setattr(indexing, "ask", programs.ask)
        forget([folder], ADDRESS, however_many=however_many)
        return programs.deletions

    return run


def test_gone_are_files_that_are_not_there(tmp_path: Path) -> None:
    """A file below the folder that is missing, or whose folder is; not one that is there."""
    (there,) = _photos(tmp_path / "photos", 1)
    items = [_item(there), _item(tmp_path / "photos/no.jpg"), _item(tmp_path / "photos/sub/no.jpg", "x")]
    items.append(_item(there / "below-a-file.jpg", "y"))
    assert take_census(items, [tmp_path / "photos"]) == Census(4, ("no.jpg", "x", "y"))


def test_what_is_not_of_the_folders_is_nobodys_business(tmp_path: Path) -> None:
    """Items of other folders, even with a name that begins the same, and items without a file stay."""
    _photos(tmp_path / "photos", 1)
    items = [_item(tmp_path / "photos-of-others/no.jpg"), {"id": "text", "attributes": {}}]
    items.append({"id": "number", "attributes": {"path": 7}})
    assert take_census(items, [tmp_path / "photos"]) == Census(0, ())


def test_a_folder_that_is_away_has_nothing_that_is_gone(tmp_path: Path) -> None:
    """It may come back, and with it all."""
    assert take_census([_item(tmp_path / "away/a.jpg")], [tmp_path / "away"]) == Census(0, ())


def test_a_file_that_cannot_be_looked_at_is_not_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails, or a folder that may not be entered, removes nothing."""

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    tmp_path.joinpath("photos").mkdir()
    items = [_item(tmp_path / "photos/a.jpg")]
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", refuse)
        assert not indexing._is_gone(str(tmp_path / "photos/a.jpg"))
    assert take_census(items, [tmp_path / "photos"]).gone == ("a.jpg",)


@pytest.mark.parametrize(
    ("indexed", "gone", "suspicious"),
    [(2, 2, False), (10, 10, False), (11, 11, True), (50, 10, False), (100, 20, False), (100, 21, True)],
)
def test_more_than_a_fifth_is_suspicious(indexed: int, gone: int, suspicious: bool) -> None:
    """But a few photos never are: they would be indexed again in a moment."""
    assert Census(indexed, ("x",) * gone).is_suspicious == suspicious


def test_a_folder_that_was_renamed_is_no_disk_that_is_away(tmp_path: Path) -> None:
    """However many photos it holds: each is there under its new name. One namesake stands for one photo."""
    now = _photos(tmp_path / "photos/2025", 30)
    before = [tmp_path / "photos/2024" / path.name for path in now]
    items = [_item(path, str(path)) for path in [*now, *before]]
    census = take_census(items, [tmp_path / "photos"])
    assert census == Census(60, tuple(map(str, before)), moved=30)
    assert not census.is_suspicious
    twins = [_item(tmp_path / f"photos/{copy}/000.jpg", str(copy)) for copy in range(30)]
    assert take_census([*twins, _item(now[0])], [tmp_path / "photos"]).is_suspicious


def test_what_is_gone_is_forgotten(forget_from: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its id, and it is told how many those were; with nothing gone, nothing is done or said."""
    paths = _photos(tmp_path / "photos", 20)
    items = [_item(path) for path in paths]
    assert forget_from(items, tmp_path / "photos") == []
    assert capsys.readouterr().out == ""
    paths[3].unlink()
    assert forget_from(items, tmp_path / "photos") == [["003.jpg"]]
    assert "1 gone from the folders, and forgotten" in capsys.readouterr().out


def test_a_disk_that_is_not_mounted_costs_nothing(
    forget_from: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With most files gone nothing is removed, and it is told what to do; with --prune all of them are, in pieces."""
    (tmp_path / "photos").mkdir()
    items = [_item(tmp_path / f"photos/{number}.jpg") for number in range(450)]
    assert forget_from(items, tmp_path / "photos") == []
    told = capsys.readouterr().err
    assert "450 of 450 are gone" in told
    assert "--prune" in told
    deletions = forget_from(items, tmp_path / "photos", however_many=True)
    assert [len(each) for each in deletions] == [200, 200, 50]
    assert {name for each in deletions for name in each} == {item["id"] for item in items}


def test_folders_that_are_away_or_empty_are_told_and_not_indexed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several, those that are there and hold files are."""
    runs: list[list[str]] = []

    def run(_program: str, arguments: Sequence[str]) -> int:
        runs.append(list(arguments))
        return 0

    monkeypatch.setattr(indexing, "run", run)
    (tmp_path / "empty").mkdir()
    index([tmp_path / "empty"], ADDRESS)
    assert "none yet" in capsys.readouterr().out
    assert runs == []
    _photos(tmp_path / "full", 1)
    index([tmp_path / "away", tmp_path / "full"], ADDRESS)
    assert f"{tmp_path / 'away'} is away" in capsys.readouterr().err
    (arguments,) = runs
    assert arguments[-1:] == [str(tmp_path / "full")]
    assert str(tmp_path / "away") not in arguments
