import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from clip_search.v1 import item_pb2
from demo import workspace
from demo.emoji_table import wanted_rows
from demo.evaluation import Evaluation, Outcome, Query, phrase_queries
from demo.remote import RankedPicture, Remote, RemoteError, hexcode_of
from demo.report import Report
from demo.run import PHRASES_SHOWN, same_ranking
from demo.samples import Sample, read_table
from demo.workspace import WorkspaceError, fresh_workspace
from tests.unit.client.fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server with canned behaviour."""
    fake = FakeServer()
    yield fake
    fake.stop()


def test_answers_are_the_same_only_with_the_same_order_and_scores() -> None:
    """Order, pictures and scores must agree; the last digits of a score may differ."""
    before = [RankedPicture("A", 0.5), RankedPicture("B", 0.25)]
    assert same_ranking(before, [RankedPicture("A", 0.50001), RankedPicture("B", 0.25)])
    assert not same_ranking(before, [RankedPicture("B", 0.25), RankedPicture("A", 0.5)])
    assert not same_ranking(before, [RankedPicture("A", 0.51), RankedPicture("B", 0.25)])
    assert not same_ranking(before, before[:1])


def test_the_phrases_shown_are_on_record() -> None:
    """The phrases that the demo shows are among the held-out ones, so that right pictures can be ticked."""
    assert set(PHRASES_SHOWN) <= {query.text for query in phrase_queries(read_table())[0]}


def _report() -> tuple[Report, io.StringIO]:
    output = io.StringIO()
    return Report(Console(file=output, width=100)), output


def test_steps_are_numbered_and_listed_with_their_times() -> None:
    """Each step is announced with its number, and the table at the end has a row for each and one for all."""
    report, output = _report()
    for title in ("Export", "Serve"):
        with report.step(title):
            pass
    report.times()
    text = output.getvalue()
    assert text.count("1. Export") == text.count("2. Serve") == 2
    assert "all" in text


def test_rankings_show_queries_as_typed_and_tick_right_pictures() -> None:
    """Brackets in a query are not markup, and only pictures on record as right get a tick."""
    report, output = _report()
    samples = {"1F34E": Sample("🍎", "red apple", "", ""), "1F350": Sample("🍐", "pear", "", "")}
    hits = [RankedPicture("1F34E", 0.5), RankedPicture("1F350", 0.25)]
    report.rankings({"a [red] fruit": hits, "fruit": hits}, samples, {"fruit": frozenset({"1F350"})})
    text = output.getvalue()
    assert "a [red] fruit" in text
    (ticked,) = [line for line in text.splitlines() if "✓" in line and "│" in line]
    assert "pear" in ticked


def test_recall_and_the_worst_failures_are_printed() -> None:
    """Figures are in percent; a failure tells its place and what came first; dropped queries are counted."""
    report, output = _report()
    samples = {"1F350": Sample("🍐", "pear", "", "")}
    outcomes = [
        Outcome(Query("apple", frozenset({"1F34E"})), 1, "1F34E"),
        Outcome(Query("red fruit", frozenset({"1F34E"})), 1234, "1F350"),
    ]
    report.recall([Evaluation("by phrase", outcomes, dropped=3)], samples)
    text = output.getvalue()
    assert text.count("50.0%") == 3
    assert "3 queries by phrase left out" in text
    (row,) = [line for line in text.splitlines() if "red fruit" in line]
    assert "1,234." in row
    assert "pear" in row


@pytest.mark.parametrize("item_id", ["red-apple_1F34E.png", "pictures/red-apple_1F34E.png", "/a_b/red-apple_1F34E.png"])
def test_an_item_is_known_by_the_code_points_in_its_file_name(item_id: str) -> None:
    """Whatever folders an id has, the last part of the file name tells the emoji."""
    assert hexcode_of(item_id) == "1F34E"


@pytest.mark.parametrize("item_id", ["holiday.jpg", "red-apple_1F34E", "apple.png", ""])
def test_a_foreign_item_is_reported(item_id: str) -> None:
    """An item that is no sample picture means that the server is not the demo's."""
    with pytest.raises(RemoteError, match="no sample picture"):
        hexcode_of(item_id)


def test_vectors_are_collected_from_all_pages() -> None:
    """Paging goes on until there is no further page."""
    pages = {
        "": SimpleNamespace(items=[SimpleNamespace(id="a_1.png", vector=np.ones(2))], next_page_token="more"),
        "more": SimpleNamespace(items=[SimpleNamespace(id="b_2.png", vector=np.zeros(2))], next_page_token=""),
    }
    remote = Remote("127.0.0.1:1")
    remote._client = SimpleNamespace(  # type: ignore[assignment]
        list_items=lambda page_token, **_: pages[page_token], close=lambda: None
    )
    assert set(remote.picture_vectors()) == {"1", "2"}


def test_a_workspace_is_emptied_for_each_run(tmp_path: Path) -> None:
    """Bundle, data and log of an earlier run are gone; what lies beside them stays."""
    folder = tmp_path / "demo"
    (folder / "data" / "collections").mkdir(parents=True)
    (folder / "bundle").mkdir()
    (folder / "server.log").write_text("old")
    (folder / "report.html").write_text("kept")
    with fresh_workspace("demo", tmp_path) as fresh:
        assert not fresh.data.exists()
        assert not fresh.bundle.exists()
        assert fresh.log.read_text() == ""
    assert (folder / "report.html").read_text() == "kept"


def test_a_workspace_in_use_is_left_alone(tmp_path: Path) -> None:
    """A second run is refused before it removes anything, and let in once the first is done."""
    with fresh_workspace("demo", tmp_path) as first:
        first.data.mkdir()
        with pytest.raises(WorkspaceError, match="another run"), fresh_workspace("demo", tmp_path):
            pass
        assert first.data.exists()
    with fresh_workspace("demo", tmp_path):
        pass


def test_pictures_are_named_and_keep_what_they_have(server: FakeServer) -> None:
    """Each gets its name as caption and text, its groups, and keeps its other attributes; no vector is sent."""
    samples = [Sample("🍎", "red apple", "food", "fruit"), Sample("🐶", "dog face", "animals", "pets")]
    for sample in samples:
        name = item_pb2.AttributeValue(string_value=sample.file)
        server.items[sample.file] = item_pb2.Item(id=sample.file, attributes={"file_name": name})
    workspace.name_pictures(server.address, samples)
    apple = server.items[samples[0].file]
    assert (apple.text, apple.HasField("content")) == ("red apple", False)
    assert {name: value.string_value for name, value in apple.attributes.items()} == {
        "file_name": samples[0].file,
        "caption": "red apple",
        "group": "food",
        "subgroup": "fruit",
    }


def test_a_failing_program_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The command line is shown, and its failure is an error that names the program and its exit code."""
    monkeypatch.setattr(workspace, "program", lambda _: "/bin/false")
    monkeypatch.setattr(workspace, "typed", lambda name: name)
    with pytest.raises(WorkspaceError, match="clip-search export failed with exit code 1"):
        workspace.run_program("clip-search", "export", "demo")
    assert "$ clip-search export demo" in capsys.readouterr().out


def test_commands_are_shown_as_they_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program on the search path is shown by name, another one by its path from the checkout."""
    inside = workspace.CHECKOUT / ".venv" / "bin" / "search_client"
    monkeypatch.setattr(workspace, "program", lambda _: str(inside))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert workspace.search_commands("localhost:1")[2] == ".venv/bin/search_client --server localhost:1 stats"
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/search_client")
    assert workspace.search_commands("localhost:1")[2] == "search_client --server localhost:1 stats"


def test_the_emoji_table_leaves_out_flags_parts_and_right_facing_variants() -> None:
    """Rows come in Unicode's order, with their groups by name."""
    groups = {"groups": {"1": "people", "2": "component", "9": "flags"}, "subgroups": {"5": "person", "6": "other"}}
    records = json.loads(
        """[
        {"emoji": "🏁", "label": "chequered flag", "group": 9, "subgroup": 6, "order": 4},
        {"emoji": "🇦", "label": "regional indicator A"},
        {"emoji": "🦰", "label": "red hair", "group": 2, "subgroup": 6, "order": 3},
        {"emoji": "🏃‍➡️", "label": "person running facing right", "group": 1, "subgroup": 5, "order": 5},
        {"emoji": "👩", "label": "woman", "group": 1, "subgroup": 5, "order": 2},
        {"emoji": "🧑", "label": "person", "group": 1, "subgroup": 5, "order": 1}
        ]"""
    )
    assert wanted_rows(records, groups) == [("🧑", "person", "people", "person"), ("👩", "woman", "people", "person")]
