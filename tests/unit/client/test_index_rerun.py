"""Indexing again: what is left out, what is sent anew, and what is deleted."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.rpc import code_pb2, status_pb2

from clip_search.v1 import index_pb2
from tests.unit.client.conftest import Program
from tests.unit.client.fake_server import FakeServer

Photos = Callable[..., Path]


def counts(document: dict[str, Any]) -> tuple[int, int, int, int]:
    """Give what was stored, skipped, failed and pruned."""
    return document["stored"], document["skipped"], document["failed"], document["pruned"]


def test_indexing_again_sends_nothing(server: FakeServer, program: Program, photos: Photos) -> None:
    """A second run looks up what is there and sends nothing, and its document says so."""
    folder = photos("a.png", "b.png", "c.png")
    program("index", str(folder))
    before = dict(server.items)
    document = program.document("index", str(folder))
    assert document.pop("elapsed_seconds") >= 0
    assert document == {
        "stored": 0,
        "replaced": 0,
        "skipped": 3,
        "failed": 0,
        "pruned": 0,
        "unanswered": 0,
        "complete": True,
    }
    assert server.items == before
    assert program("index", str(folder)).stdout.startswith("0 pictures stored, 3 unchanged in ")


def test_items_are_looked_up_by_many_ids_at_once(server: FakeServer, program: Program, photos: Photos) -> None:
    """1,200 pictures take three look-ups, and none where the collection is empty."""
    folder = photos(*(f"{number:04}.png" for number in range(1_200)))
    program("index", str(folder))
    assert not [each for each in server.requests if isinstance(each, index_pb2.GetItemsRequest)]
    assert program.document("index", str(folder))["skipped"] == 1_200
    asked = [len(each.ids) for each in server.requests if isinstance(each, index_pb2.GetItemsRequest)]
    assert asked == [500, 500, 200]


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))


@pytest.mark.parametrize(
    "change",
    [_touch, lambda path: path.write_bytes(path.read_bytes() + b"\0")],
    ids=["time", "size"],
)
def test_a_changed_picture_is_sent_again(
    server: FakeServer, program: Program, photos: Photos, change: Callable[[Path], object]
) -> None:
    """By its size or its time, and once: the next run finds it unchanged."""
    folder = photos("a.png", "b.png")
    program("index", str(folder))
    change(folder / "b.png")
    document = program.document("index", str(folder))
    assert counts(document) == (1, 1, 0, 0)
    assert document["replaced"] == 1
    assert program.document("index", str(folder))["skipped"] == 2


def test_another_attribute_is_a_change(server: FakeServer, program: Program, photos: Photos) -> None:
    """What --attribute says is stored with every picture, typed as it looks, or as it is told to be."""
    folder = photos("a.png", "b.png")
    program("index", str(folder))
    options = [
        "--attribute",
        "album=Holiday",
        "--attribute",
        "year=2024",
        "--attribute",
        "code=7",
        "--type",
        "code=text",
    ]
    assert program.document("index", str(folder), *options)["stored"] == 2
    attributes = server.items["photos/a.png"].attributes
    assert attributes["album"].string_value == "Holiday"
    assert attributes["year"].int_value == 2024
    assert attributes["code"].string_value == "7"
    assert program.document("index", str(folder), *options)["skipped"] == 2
    assert program.document("index", str(folder), "--attribute", "best=1")["stored"] == 2
    assert program.document("index", str(folder), "--attribute", "best=true")["stored"] == 2  # another kind


def test_resend_sends_everything(program: Program, photos: Photos) -> None:
    """--resend looks nothing up."""
    folder = photos("a.png", "b.png")
    program("index", str(folder))
    assert program.document("index", str(folder), "--resend")["replaced"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attribute", "album"], "is not NAME=VALUE"),
        (["--attribute", "a=1", "--attribute", "a=2"], "is given twice"),
        (["--attribute", "path=x"], "known again by"),
        (["--attribute", "year=old", "--type", "year=int"], "no whole number"),
        (["--type", "year=number"], "the kinds are text, int"),
    ],
)
def test_attributes_that_cannot_be_are_usage_errors(
    program: Program, photos: Photos, options: list[str], message: str
) -> None:
    """They are told before anything is sent."""
    result = program("index", str(photos("a.png")), *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_lost_server_is_waited_for_in_look_ups_too(server: FakeServer, program: Program, photos: Photos) -> None:
    """A look-up that fails for a while is repeated, as the stream is resumed."""
    folder = photos("a.png", "b.png")
    program("index", str(folder))
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes())
    server.fail_with = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="starting")
    server.fail_only = index_pb2.GetItemsRequest
    server.failures_left = 6  # of which gRPC itself repeats only three
    assert counts(program.document("index", str(folder))) == (1, 2, 0, 0)
    server.failures_left = None
    result = program("index", str(folder), "--resume-seconds", "0")
    assert result.exit_code == 1
    assert "Run the same command again to go on" in result.stderr
    assert result.stderr.endswith("is not available: starting\n")


# ── Pruning ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def indexed(server: FakeServer, program: Program, photos: Photos) -> Path:
    """A folder of ten pictures, which are stored."""
    folder = photos(*(f"{number}.png" for number in range(10)))
    assert program("index", str(folder)).exit_code == 0
    return folder


def test_prune_deletes_what_has_vanished(server: FakeServer, program: Program, indexed: Path) -> None:
    """It says which items go, and they go; without it they stay."""
    (indexed / "3.png").unlink()
    assert counts(program.document("index", str(indexed))) == (0, 9, 0, 0)
    assert len(server.items) == 10
    result = program("index", str(indexed), "--prune")
    assert result.exit_code == 0, result.output
    assert f"prune: 1 of the 10 items of {indexed} have no picture any more\n  photos/3.png\n" in result.stderr
    assert result.stdout.endswith("1 picture pruned\n")
    assert "photos/3.png" not in server.items
    assert len(server.items) == 9


def test_prune_refuses_to_delete_much(server: FakeServer, program: Program, indexed: Path) -> None:
    """More than a fifth looks like a disk that is not mounted; --yes says that it is none."""
    for number in range(3):
        (indexed / f"{number}.png").unlink()
    result = program("index", str(indexed), "--prune")
    assert result.exit_code == 1
    assert f"more than 20% would go (3 of 10 in {indexed}): is a disk not mounted?" in result.stderr
    assert len(server.items) == 10
    assert program.error("index", str(indexed), "--prune")["code"] == "PRUNE_REFUSED"
    assert program.document("index", str(indexed), "--prune", "--yes")["pruned"] == 3  # with nothing on stderr
    assert len(server.items) == 7


def test_an_empty_folder_prunes_nothing_by_itself(server: FakeServer, program: Program, indexed: Path) -> None:
    """A folder where a disk should be mounted is refused, too."""
    for picture in indexed.iterdir():
        picture.unlink()
    assert program.error("index", str(indexed), "--prune")["code"] == "PRUNE_REFUSED"
    assert len(server.items) == 10


def test_prune_leaves_other_sources_alone(server: FakeServer, program: Program, indexed: Path, tmp_path: Path) -> None:
    """A folder of another name, one of the same name elsewhere, and single files take nothing with them."""
    elsewhere = tmp_path / "other" / "photos"
    elsewhere.mkdir(parents=True)
    shutil.copy(indexed / "1.png", elsewhere / "new.png")
    (indexed / "3.png").unlink()
    assert program.document("index", str(elsewhere), "--prune")["pruned"] == 0
    assert program.document("index", str(indexed / "1.png"), "--prune")["pruned"] == 0
    assert len(server.items) == 11


def test_what_cannot_be_read_has_not_vanished(
    server: FakeServer, program: Program, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the picture itself nor what lies in a folder that is closed."""
    folder = photos("closed/a.png", *(f"{number}.png" for number in range(10)))
    program("index", str(folder))
    scandir = os.scandir

    def refuse_closed(path: str) -> object:
        if path.endswith("/closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_closed)
    (folder / "1.png").unlink()
    result = program("index", str(folder), "--prune")
    assert result.exit_code == 1
    assert f"prune: {folder} could not be read as a whole, so nothing of it is deleted" in result.stderr
    assert len(server.items) == 11


# ── Failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_failures_are_listed_in_a_file(program: Program, photos: Photos, tmp_path: Path) -> None:
    """A JSON object for each, and where there are many only the first are shown, with the reasons counted."""
    folder = photos("a.png")
    for number in range(30):
        (folder / f"gone-{number:02}.png").symlink_to("nowhere.png")
    listed = tmp_path / "failures.jsonl"
    result = program("index", str(folder), "--failures", str(listed))
    assert result.exit_code == 1
    documents = [json.loads(line) for line in listed.read_text().splitlines()]
    assert len(documents) == 30
    assert documents[0] == {
        "source": str(folder / "gone-00.png"),
        "id": "photos/gone-00.png",
        "code": "FILE",
        "reason": "No such file or directory",
    }
    assert result.stderr.count("failed: /") == 20
    assert "  30 × No such file or directory\n" in result.stderr
    assert result.stderr.endswith("error: 30 pictures could not be stored\n")
    program("index", str(folder / "a.png"), "--failures", str(listed))
    assert listed.read_text() == ""


def test_a_file_of_failures_that_cannot_be_written_is_told_first(
    server: FakeServer, program: Program, photos: Photos
) -> None:
    """Before anything is sent."""
    result = program("index", str(photos("a.png")), "--failures", "/nowhere/failures.jsonl")
    assert result.exit_code == 1
    assert result.stderr == "error: cannot write /nowhere/failures.jsonl: No such file or directory\n"
    assert not server.items
