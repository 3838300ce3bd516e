"""Lists of pictures: captions, typed attributes, and rows that are of no use."""

import importlib.util
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from clip_search.indexing.found import FoundPicture, Unusable
from clip_search.indexing.lists import Columns
from clip_search.indexing.sources import sources_of
from clip_search.indexing.tables import TableError, rows_of
from tests.unit.client.conftest import Program
from tests.unit.client.fake_server import FakeServer

Photos = Callable[..., Path]


def found_in(path: Path, columns: Columns | None = None) -> list[FoundPicture | Unusable]:
    """Give all that a list names."""
    (source,) = sources_of([path], columns)
    return list(source.pictures(1_000_000))


def only(path: Path, columns: Columns | None = None) -> FoundPicture:
    """Give the one picture that a list names."""
    (found,) = found_in(path, columns)
    assert isinstance(found, FoundPicture), found
    return found


def test_a_list_brings_captions_and_attributes(
    server: FakeServer, program: Program, photos: Photos, png: bytes
) -> None:
    """The caption is the item's text, other columns are attributes of the kinds that they look like."""
    folder = photos("a.png", "2024/b.png")
    path = folder / "pictures.csv"
    path.write_text(
        "file_name,caption,year,score,day,good,code,empty\n"
        'a.png,"a red bicycle, leaning",2019,0.5,2024-05-31,true,007,\n'
        "2024/b.png,the sea,2024,1.0,2024-06-01T12:00:00+02:00,false,008,\n"
    )
    assert program.document("index", str(path))["stored"] == 2
    item = server.items["pictures.csv/a.png"]
    assert item.content.image == png
    assert item.text == "a red bicycle, leaning"
    values = {name: getattr(value, str(value.WhichOneof("kind"))) for name, value in item.attributes.items()}
    assert values["path"] == str(folder / "a.png")
    assert values["source"] == str(path)
    assert (values["year"], values["score"], values["good"], values["code"]) == (2019, 0.5, True, "007")
    assert values["day"].ToDatetime(tzinfo=UTC) == datetime(2024, 5, 31, tzinfo=UTC)
    assert "empty" not in values
    sea = server.items["pictures.csv/2024/b.png"]
    assert sea.attributes["day"].timestamp_value.ToDatetime(tzinfo=UTC) == datetime(2024, 6, 1, 10, tzinfo=UTC)


def test_another_caption_is_a_change(server: FakeServer, program: Program, photos: Photos) -> None:
    """A row that changed is sent again, and the others are not."""
    path = photos("a.png", "b.png") / "pictures.csv"
    path.write_text("path,caption\na.png,one\nb.png,two\n")
    program("index", str(path))
    path.write_text("path,caption\na.png,one\nb.png,three\n")
    document = program.document("index", str(path))
    assert (document["stored"], document["skipped"]) == (1, 1)
    assert server.items["pictures.csv/b.png"].text == "three"


def test_a_row_that_cannot_be_read_may_hide_a_picture(server: FakeServer, program: Program, photos: Photos) -> None:
    """So nothing of its list is pruned; a row that is gone, is."""
    names = [f"{number}.png" for number in range(8)]
    path = photos(*names) / "pictures.csv"
    path.write_text("path,caption\n" + "".join(f"{name},x\n" for name in names))
    program("index", str(path))
    path.write_text("path,caption\n" + "".join(f"{name},x\n" for name in names[:-1]) + f"{names[-1]},x,y\n")
    assert program("index", str(path), "--prune").exit_code == 1
    assert len(server.items) == 8
    path.write_text("path,caption\n" + "".join(f"{name},x\n" for name in names[:-1]))
    assert program.document("index", str(path), "--prune")["pruned"] == 1


def test_json_lines_keep_their_types(photos: Photos) -> None:
    """Lists of texts stay lists, nothing is nothing, and what has no place among attributes becomes JSON."""
    path = photos("a.png") / "pictures.jsonl"
    row = {
        "image": "a.png",
        "text": "x",
        "tags": ["a", "b"],
        "n": 1,
        "f": 1.5,
        "b": True,
        "day": "2024-05-31",
        "no": None,
    }
    path.write_text(json.dumps({**row, "box": {"x": 1}}) + "\n\n")
    found = only(path)
    assert found.text == "x"
    facts = {name: value for name, value in found.facts.items() if name in {*row, "box"}}
    assert facts == {"tags": ("a", "b"), "n": 1, "f": 1.5, "b": True, "day": "2024-05-31", "box": '{"x": 1}'}
    assert only(path, Columns(kinds={"day": "time"})).facts["day"] == datetime(2024, 5, 31, tzinfo=UTC)


def test_tabs_separate_too(photos: Photos) -> None:
    """A byte order mark is no part of the first column's name."""
    path = photos("a.png") / "pictures.tsv"
    path.write_text("\ufeffpath\tcaption\na.png\tone, two\n", encoding="utf-8")
    assert only(path).text == "one, two"


def test_columns_and_the_folder_can_be_named(
    server: FakeServer, program: Program, photos: Photos, tmp_path: Path
) -> None:
    """And the kinds of columns, by options."""
    folder = photos("a.png")
    path = tmp_path / "list.csv"
    path.write_text(f"bild,titel,plz,worte,path\n{folder}/a.png,one,1234,a; b,ignored\n")
    options = ["--path-column", "bild", "--caption-column", "titel", "--base", str(folder)]
    result = program("index", str(path), *options, "--type", "plz=text", "--type", "worte=list")
    assert result.exit_code == 0, result.output
    item = server.items["list.csv/a.png"]
    assert item.text == "one"
    assert item.attributes["plz"].string_value == "1234"
    assert list(item.attributes["worte"].string_list_value.values) == ["a", "b"]
    assert item.attributes["path"].string_value == str(folder / "a.png")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("../a.png,1", "leads out of the folder"),
        ("/etc/passwd,1", "does not lie below"),
        ("https://example.org/a.png,1", "addresses on the web are not fetched"),
        ("file:///etc/passwd,1", "addresses on the web are not fetched"),
        ("gone.png,1", "No such file"),
        (",1", "its column path names no picture"),
        ("a.png,old", "column year: 'old' is no whole number"),
        ("a.png", "it has 1 cells, and there are 2 columns"),
        ("a\0.png,1", "null character"),
    ],
)
def test_rows_that_are_of_no_use_are_reported(photos: Photos, row: str, reason: str) -> None:
    """With the row's number; the rows around them are used."""
    path = photos("a.png", "b.png") / "pictures.csv"
    path.write_text(f"path,year\na.png,1\n{row}\nb.png,2\n")
    first, bad, last = found_in(path, Columns(kinds={"year": "int"}))
    assert isinstance(first, FoundPicture)
    assert isinstance(last, FoundPicture)
    assert isinstance(bad, Unusable)
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"", "must name the columns"),
        ("a.csv", b"a,a\n1,2\n", "two columns of one name"),
        ("a.csv", b'path\n"open', "line 2: unexpected end of data"),
        ("a.csv", b"path\n\xff\n", "it is not UTF-8"),
        ("a.jsonl", b'"' + b"x" * (5 << 20), "more than"),
    ],
)
def test_lists_that_cannot_be_read_further_say_so(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    """Then nothing of the source is taken for vanished."""
    (tmp_path / name).write_bytes(content)
    *_, end = found_in(tmp_path / name)
    assert isinstance(end, Unusable)
    assert reason in end.reason
    assert end.hides_pictures
    with pytest.raises(TableError, match=reason):
        list(rows_of(tmp_path / name))


@pytest.mark.parametrize("line", ["[1]", "{", '{"path": NaN}', "[" * 100_000])
def test_lines_that_are_no_objects_are_reported(tmp_path: Path, line: str) -> None:
    """And do not keep the others from being read."""
    (tmp_path / "a.jsonl").write_text(f'{line}\n{{"path": "x.png"}}\n')
    (_, first), (_, second) = rows_of(tmp_path / "a.jsonl")
    assert isinstance(first, str)
    assert second == {"path": "x.png"}


def test_a_list_without_a_column_of_pictures_says_which_option_names_it(program: Program, tmp_path: Path) -> None:
    """Row by row."""
    path = tmp_path / "a.csv"
    path.write_text("bild\na.png\n")
    result = program("index", str(path))
    assert result.exit_code == 1
    assert "(--path-column says which)" in result.stderr


def test_parquet_without_its_extra_says_how_to_install_it(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a usage error, before anything is sent."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "pyarrow" else find_spec(name, *more)
    )
    (tmp_path / "a.parquet").write_bytes(b"")
    result = program("index", str(tmp_path / "a.parquet"))
    assert result.exit_code == 2
    assert "pip install 'clip-search[parquet]'" in result.stderr


def test_parquet_is_read_in_batches(photos: Photos) -> None:
    """With its types; a file that is none says so."""
    arrow: Any = pytest.importorskip("pyarrow")
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    path = photos("a.png") / "pictures.parquet"
    columns = {"path": ["a.png"], "caption": ["x"], "taken": [datetime(2024, 5, 31)], "tags": [["a"]], "n": [3]}  # noqa: DTZ001
    parquet.write_table(arrow.table(columns), path)
    found = only(path)
    assert found.text == "x"
    assert (found.facts["taken"], found.facts["tags"], found.facts["n"]) == (
        datetime(2024, 5, 31, tzinfo=UTC),
        ("a",),
        3,
    )
    path.write_bytes(b"no parquet")
    (end,) = found_in(path)
    assert isinstance(end, Unusable)
    assert end.hides_pictures
