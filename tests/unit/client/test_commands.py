import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from google.rpc import code_pb2, status_pb2
from grpc_health.v1 import health_pb2

from clip_search.cli import main
from clip_search.v1 import embedding_pb2, index_pb2, item_pb2, search_pb2
from tests.unit.client.conftest import Program
from tests.unit.client.fake_server import FakeServer


def put(server: FakeServer, item_id: str, thumbnail: bytes = b"", **attributes: str) -> None:
    """Store an item with attributes that are texts."""
    values = {name: item_pb2.AttributeValue(string_value=value) for name, value in attributes.items()}
    server.items[item_id] = item_pb2.Item(id=item_id, attributes=values, thumbnail=thumbnail)


# ── search ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_search_prints_a_ranked_table(server: FakeServer, program: Program) -> None:
    """One row for each hit: rank, score, id and path, unfolded when the output is not a terminal."""
    put(server, "photos/a.png", path="/home/me/photos/a.png")
    put(server, "photos/" + "long" * 50 + ".png")
    rows = [line.split() for line in program("search", "red", "bicycle").stdout.splitlines()]
    assert rows[0] == ["rank", "score", "id", "path"]
    assert rows[2] == ["1", "0.3100", "photos/a.png", "/home/me/photos/a.png"]
    assert rows[3] == ["2", "0.3000", "photos/" + "long" * 50 + ".png"]
    assert server.last(search_pb2.SearchRequest).parts[0].content.text == "red bicycle"


def test_search_composes_parts(server: FakeServer, program: Program, tmp_path: Path, png: bytes) -> None:
    """Words, pictures and items count with weight 1, unwanted words with weight -0.5."""
    picture = tmp_path / "sofa.png"
    picture.write_bytes(png)
    arguments = [
        "--image",
        str(picture),
        "--like",
        "photos/a.png",
        "--not",
        "cushions",
        "--exact",
        "--min-score",
        "0.2",
    ]
    program.document("search", "in leather", *arguments, "--limit", "7")
    request = server.last(search_pb2.SearchRequest)
    parts = [(part.content.WhichOneof("kind"), part.weight) for part in request.parts]
    assert parts == [("text", 1.0), ("image", 1.0), ("item_id", 1.0), ("text", -0.5)]
    assert request.parts[1].content.image == png
    assert (request.limit, request.exact) == (7, True)
    assert request.min_score == pytest.approx(0.2)


def test_search_document(server: FakeServer, program: Program) -> None:
    """The JSON of a search: the query as understood, hits with ranks, sequence and space."""
    put(server, "photos/a.png", path="/home/me/photos/a.png")
    assert program.document("search", "dog", "--not", "cat") == {
        "query": {
            "parts": [{"text": "dog", "weight": 1.0}, {"text": "cat", "weight": -0.5}],
            "limit": 10,
            "filter": None,
            "ranking": "vector",
            "exact": False,
            "min_score": None,
        },
        "hits": [
            {"rank": 1, "id": "photos/a.png", "score": 0.31, "attributes": {"path": "/home/me/photos/a.png"}},
        ],
        "sequence": 0,
        "space_id": "space-1",
    }


def test_every_kind_of_attribute_has_its_json(server: FakeServer, program: Program) -> None:
    """Instants are ISO 8601, lists are lists, and numbers that JSON lacks are texts."""
    values: dict[str, Any] = {
        "n": item_pb2.AttributeValue(int_value=2**60),
        "x": item_pb2.AttributeValue(double_value=float("inf")),
        "b": item_pb2.AttributeValue(bool_value=True),
        "l": item_pb2.AttributeValue(string_list_value=item_pb2.StringList(values=["p", "q"])),
        "unknown": item_pb2.AttributeValue(),
    }
    values["t"] = item_pb2.AttributeValue()
    values["t"].timestamp_value.FromJsonString("2026-05-04T12:00:00.5Z")
    server.items["a"] = item_pb2.Item(id="a", attributes=values)
    (item,) = program.document("get", "a")["items"]
    assert item["attributes"] == {
        "n": 2**60,
        "x": "Infinity",
        "b": True,
        "l": ["p", "q"],
        "t": "2026-05-04T12:00:00.500000Z",
    }


def test_hostile_ids_are_shown_not_obeyed(server: FakeServer, program: Program) -> None:
    """Neither escapes for terminals nor markup in ids and attributes has any effect."""
    hostile = "[red]x[/red] \x1b[31m \x9b2J :dog:"
    put(server, hostile, path="/tmp/\x1b]0;title\x07[/]")
    shown = r"[red]x[/red] \x1b[31m \x9b2J :dog:"
    for arguments in (["search", "dog"], ["list"], ["get", hostile]):
        result = program(*arguments)
        assert result.exit_code == 0, result.output
        assert shown in result.stdout
        assert r"/tmp/\x1b]0;title\x07[/]" in result.stdout
        assert "\x1b" not in result.output
        assert "\x9b" not in result.output
    assert program.document("search", "dog")["hits"][0]["id"] == hostile


def test_nothing_found_is_no_error(program: Program) -> None:
    """An empty answer exits with 0."""
    result = program("search", "dog")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "nothing found\n")


def test_gallery_takes_thumbnails_then_files_then_placeholders(
    server: FakeServer, program: Program, tmp_path: Path, png: bytes
) -> None:
    """A page shows the stored thumbnail, else the picture file, and never another file's content."""
    (tmp_path / "secret.png").write_bytes(b"root:x:0:0")
    (tmp_path / "file.png").write_bytes(png)
    (tmp_path / "large.png").write_bytes(png + bytes(4 * 1024 * 1024))
    put(server, "1-thumbnail", thumbnail=b"GIF89a-thumbnail", path=str(tmp_path / "file.png"))
    put(server, "2-file", path=str(tmp_path / "file.png"), file_name="file.png")
    put(server, "3-secret", path=str(tmp_path / "secret.png"))
    put(server, "4-gone", path=str(tmp_path / "gone.png"))
    put(server, "5-large", path=str(tmp_path / "large.png"))
    put(server, "6-relative", path="file.png")
    put(server, "7-folder", path=str(tmp_path))
    page = tmp_path / "page.html"
    result = program("search", "<dog>", "--gallery", str(page))
    assert result.exit_code == 0, result.output
    assert result.stderr == f"wrote {page}\n"
    text = page.read_text("utf-8")
    assert text.count("data:image/gif;base64,R0lGODlhLXRodW1ibmFpbA==") == 1
    assert text.count("data:image/png;base64,") == 1
    assert text.count("No preview of ") == 5
    assert "<h2>&lt;dog&gt;</h2>" in text
    assert "cm9vdDp4" not in text


def test_gallery_does_without_thumbnails(server: FakeServer, program: Program, tmp_path: Path, png: bytes) -> None:
    """A server that has no thumbnails still gives a page."""
    server.thumbnails_offered = False
    (tmp_path / "file.png").write_bytes(png)
    put(server, "a", path=str(tmp_path / "file.png"))
    page = tmp_path / "page.html"
    assert program("search", "dog", "--gallery", str(page)).exit_code == 0
    assert page.read_text("utf-8").count("data:image/png;base64,") == 1


def test_gallery_that_cannot_be_written_is_an_error(server: FakeServer, program: Program, tmp_path: Path) -> None:
    """The hits are printed all the same; the error names the file."""
    result = program("search", "dog", "--gallery", str(tmp_path / "missing" / "page.html"))
    assert result.exit_code == 1
    assert "page.html: No such file or directory" in result.stderr


def test_open_shows_a_page_in_the_browser(
    server: FakeServer, program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The page is a temporary file that the browser is sent to; without a browser, its name is told."""
    opened: list[str] = []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def open_page(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr("webbrowser.open", open_page)
    put(server, "a")
    assert program("search", "dog", "--open").exit_code == 0
    (page,) = tmp_path.glob("*.html")
    assert opened == [page.as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    result = program("search", "dog", "--open")
    assert result.exit_code == 0
    assert "no browser could be started" in result.stderr


# ── classify and embed ───────────────────────────────────────────────────────────────────────────────────────────────


def test_classify_shows_the_best_label_first(server: FakeServer, program: Program, tmp_path: Path, png: bytes) -> None:
    """Labels come with bars and shares, by falling share."""
    picture = tmp_path / "a.png"
    picture.write_bytes(png)
    lines = program("classify", str(picture), "cat", "red panda", "dog").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["dog", "red", "cat"]
    assert [line.split()[-1] for line in lines] == ["50.0%", "33.3%", "16.7%"]
    assert lines[0].count("█") == 16
    assert list(server.last(search_pb2.ClassifyRequest).templates) == ["a photo of a {}"]


def test_classify_document(server: FakeServer, program: Program, tmp_path: Path, png: bytes) -> None:
    """The JSON of a classification: best label first, with the templates and the way of scoring."""
    picture = tmp_path / "a.png"
    picture.write_bytes(png)
    assert program.document("classify", str(picture), "cat", "dog", "--template", "{}", "--template", "a {}") == {
        "image": str(picture),
        "templates": ["{}", "a {}"],
        "scoring": "softmax",
        "classifications": [
            {"label": "dog", "probability": 0.666667, "similarity": 0.2},
            {"label": "cat", "probability": 0.333333, "similarity": 0.1},
        ],
        "space_id": "space-1",
    }


def test_classify_with_the_papers_ensemble(server: FakeServer, program: Program, tmp_path: Path, png: bytes) -> None:
    """Seven sentences, each with one place for the label; one's own come first."""
    picture = tmp_path / "a.png"
    picture.write_bytes(png)
    used = program.document("classify", str(picture), "cat", "--ensemble")["templates"]
    assert len(used) == len(set(used)) == 7
    assert all(each.count("{}") == 1 for each in used)
    assert list(server.last(search_pb2.ClassifyRequest).templates) == used
    own = program.document("classify", str(picture), "cat", "--template", "my {}", "--ensemble")["templates"]
    assert own == ["my {}", *used]


def test_embed_prints_or_writes_a_vector(server: FakeServer, program: Program, tmp_path: Path) -> None:
    """The vector goes to stdout as JSON, or to a NumPy file."""
    assert program.document("embed", "a", "dog") == {
        "vector": [0.6, 0.8, 0.0],
        "embedding_dim": 3,
        "space_id": "space-1",
    }
    assert server.last(embedding_pb2.EmbedRequest).inputs[0].text == "a dog"
    output = tmp_path / "vector.npy"
    assert program.document("embed", "dog", "--output", str(output))["output"] == str(output)
    vector = np.load(output)
    assert vector.dtype == np.float32
    assert vector.shape == (3,)


def test_embed_of_a_bad_input_is_an_error(program: Program, tmp_path: Path) -> None:
    """The error of the one input is the error of the command, and names the input; no file is left behind."""
    assert program.error("embed", "bad")["code"] == "INVALID_ARGUMENT"
    (tmp_path / "lines").write_text("good\nbad\n")
    result = program("embed", "--lines", str(tmp_path / "lines"), "--output", str(tmp_path / "a.npy"))
    assert result.exit_code == 1
    assert 'the input was {"text": "bad"}' in result.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["lines"]


def test_embed_of_several_inputs_writes_a_file(
    server: FakeServer, program: Program, tmp_path: Path, png: bytes
) -> None:
    """Words, pictures and lines, in this order, as rows of NumPy or as lines of JSON; sent some at a time."""
    (tmp_path / "a.png").write_bytes(png)
    (tmp_path / "lines").write_text("".join(f"line {number}\n\n" for number in range(100)))
    arguments = ["embed", "a", "dog", "--image", str(tmp_path / "a.png"), "--lines", str(tmp_path / "lines")]
    output = tmp_path / "all.npy"
    assert program.document(*arguments, "--output", str(output)) == {
        "output": str(output),
        "embeddings": 102,
        "embedding_dim": 3,
        "space_id": "space-1",
    }
    assert np.load(output).shape == (102, 3)
    sizes = [len(each.inputs) for each in server.requests if isinstance(each, embedding_pb2.EmbedRequest)]
    assert sizes == [64, 38]
    result = program(*arguments, "--output", str(tmp_path / "all.jsonl"))
    assert result.stderr == f"wrote {tmp_path / 'all.jsonl'}\n"
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert lines[0] == {"text": "a dog", "vector": [0.6, 0.8, 0.0]}
    assert lines[1] == {"image": str(tmp_path / "a.png"), "vector": [0.6, 0.8, 0.0]}
    assert [line["text"] for line in lines[2:]] == [f"line {number}" for number in range(100)]


def test_embed_writes_where_it_can(program: Program) -> None:
    """A folder that is not there is an error of the file."""
    assert program.error("embed", "dog", "--output", "/nowhere/a.npy")["code"] == "FILE"


# ── get, list and delete ─────────────────────────────────────────────────────────────────────────────────────────────


def test_get_shows_items_and_names_missing_ones(server: FakeServer, program: Program) -> None:
    """What is there is printed, what is missing makes the exit code 1."""
    put(server, "a", path="/a")
    result = program("get", "a", "b")
    assert result.exit_code == 1
    assert "path" in result.stdout
    assert result.stderr == "error: no item has the id b\n"
    result = program("--json", "get", "a", "b")
    assert json.loads(result.stdout) == {
        "items": [{"id": "a", "attributes": {"path": "/a"}, "text": "", "has_thumbnail": False, "sequence": 7}],
        "missing_ids": ["b"],
    }
    assert json.loads(result.stderr)["error"]["missing_ids"] == ["b"]


def test_get_shows_vectors_when_asked(server: FakeServer, program: Program) -> None:
    """Vectors have the digits that a float32 holds, not more."""
    put(server, "a")
    assert program.document("get", "a", "--vectors")["items"][0]["vector"] == [0.6, 0.8]
    assert "0.6 0.8" in program("get", "a", "--vectors").stdout


def test_list_reads_as_many_pages_as_needed(server: FakeServer, program: Program) -> None:
    """A listing stops at its limit, says how to go on, and `--all` leaves nothing out."""
    ids = [f"{number:04}" for number in range(2_300)]
    for each in ids:
        put(server, each)
    result = program("list")
    assert result.stdout.splitlines() == ids[:100]
    assert "--page-token 100" in result.stderr
    result = program("list", "--limit", "1500", "--page-token", "100")
    assert result.stdout.splitlines() == ids[100:1600]
    result = program("list", "--all")
    assert result.stdout.splitlines() == ids
    assert result.stderr == ""
    sizes = [request.page_size for request in server.requests if isinstance(request, index_pb2.ListItemsRequest)]
    assert sizes == [100, 1_000, 500, 1_000, 1_000, 1_000]


def test_list_document_spans_pages(server: FakeServer, program: Program) -> None:
    """The JSON of a listing is one document, however many pages it takes."""
    for number in range(1_200):
        put(server, f"{number:04}")
    document = program.document("list", "--all")
    assert [item["id"] for item in document["items"]] == [f"{number:04}" for number in range(1_200)]
    assert document["next_page_token"] == ""
    assert program.document("list", "--limit", "2")["next_page_token"] == "2"


def test_an_empty_listing_is_an_empty_document(program: Program) -> None:
    """No items are no error."""
    assert program.document("list") == {"items": [], "next_page_token": ""}
    assert program("list").stdout == ""


def test_a_listing_that_fails_prints_no_half_document(server: FakeServer, program: Program) -> None:
    """When the first page fails, stdout stays empty."""
    server.fail_with = status_pb2.Status(code=code_pb2.DATA_LOSS, message="row 7 is damaged")
    result = program("--json", "list")
    assert (result.exit_code, result.stdout) == (1, "")


def test_delete_tells_how_many_were_there(server: FakeServer, program: Program) -> None:
    """Deleting what is not there is no error."""
    put(server, "a")
    put(server, "b")
    assert program("delete", "a", "missing").stdout == "1 deleted\n"
    assert program.document("delete", "b") == {"deleted": 1, "sequence": 2}
    assert server.items == {}


def test_delete_by_filter_asks_first(server: FakeServer, program: Program) -> None:
    """It shows how many and which, and deletes nothing without a yes."""
    for at in range(7):
        put(server, f"tagged {at}", tag="x")
    put(server, "other")
    arguments = ["--server", program.address, "delete", "--filter", "tag exists"]
    for answer in ("n\n", ""):
        asked = CliRunner().invoke(main, arguments, input=answer)
        assert asked.exit_code == 1
        assert "7 items match tag exists" in asked.stderr
        assert "  tagged 4\n  …\n" in asked.stderr
        assert len(server.items) == 8
    assert CliRunner().invoke(main, arguments, input="y\n").stdout == "7 deleted\n"
    assert list(server.items) == ["other"]


def test_delete_by_filter_with_yes_does_not_ask(server: FakeServer, program: Program) -> None:
    """Scripts say `--yes`; with `--json`, which cannot ask, it is needed."""
    put(server, "a", tag="x")
    refused = program("--json", "delete", "--filter", "tag exists")
    assert (refused.exit_code, json.loads(refused.stderr)["error"]["code"]) == (2, "USAGE")
    assert program.document("delete", "--filter", "tag exists", "--yes") == {"deleted": 1, "sequence": 1}


@pytest.mark.parametrize("arguments", [[], ["a", "--filter", "tag exists"]])
def test_delete_takes_ids_or_a_filter(program: Program, arguments: list[str]) -> None:
    """Nothing to delete, and two ways of saying it, are wrong usage."""
    result = program("delete", *arguments)
    assert result.exit_code == 2
    assert "either ids, or --filter" in result.stderr


def test_filters_reach_the_server(server: FakeServer, program: Program) -> None:
    """`search` and `list` send what `--filter` says, and the search's document repeats it."""
    put(server, "a", tag="x")
    put(server, "b")
    assert program("list", "--filter", "tag exists").stdout == "a\n"
    document = program.document("search", "dog", "--filter", "year>=2020  and not tag in (dog,'a cat')")
    assert document["query"]["filter"] == 'year >= 2020 and not tag in (dog, "a cat")'
    sent = server.last(search_pb2.SearchRequest).filter.all_of.filters
    assert sent[0].range.at_least.int_value == 2020
    assert [value.string_value for value in sent[1].negation.in_set.values] == ["dog", "a cat"]
    program.document("search", "dog")
    assert not server.last(search_pb2.SearchRequest).HasField("filter")


@pytest.mark.parametrize("command", [["search", "dog"], ["list"], ["delete"]])
def test_a_filter_that_is_none_is_shown_with_its_place(program: Program, command: list[str]) -> None:
    """The caret stands below the character at fault, and the exit code is that of wrong usage."""
    result = program(*command, "--filter", "year >= 2020 und tag = dog")
    assert result.exit_code == 2
    assert "year >= 2020 und tag = dog\n               ^" in result.stderr
    assert "expected `and`, `or` or the end, not 'und'" in result.stderr


def test_a_fused_ranking_shows_its_relevance(server: FakeServer, program: Program) -> None:
    """What hits are ordered by has a column and a key of its own, which other rankings lack."""
    put(server, "a")
    assert "relevance" not in program("search", "dog").stdout
    rows = [line.split() for line in program("search", "dog", "--ranking", "fused").stdout.splitlines()]
    assert (rows[0], rows[2]) == (["rank", "relevance", "score", "id"], ["1", "0.01667", "0.3100", "a"])
    (hit,) = program.document("search", "dog", "--ranking", "fused")["hits"]
    assert hit["relevance"] == 0.0166667
    program("search", "dog", "--ranking", "text")
    assert server.last(search_pb2.SearchRequest).ranking == search_pb2.RANKING_TEXT


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────────

SNAPSHOT = {"generation": 4, "sequence": 9, "create_time": "2026-05-04T12:00:00Z", "segments": 1, "bytes": 2048}


def test_stats_document(server: FakeServer, program: Program) -> None:
    """The JSON of the figures has the names of the API; what is not there yet is null."""
    put(server, "a")
    assert program.document("stats") == {
        "collection": "default",
        "space_id": "space-1",
        "embedding_dim": 3,
        "items": 1,
        "distinct_vectors": 1,
        "tail_rows": 0,
        "segments": [{"name": "seg-1", "rows": 5, "tombstones": 1, "bytes": 2048}],
        "sequence": 0,
        "snapshot": SNAPSHOT,
        "disk_bytes": 3_000_000,
        "memory_bytes": 0,
        "recall": None,
        "kept_images": None,
    }


def test_stats_are_shown_in_words(program: Program) -> None:
    """Sizes have units, segments a line each."""
    output = program("stats").stdout
    assert "2.9 MiB" in output
    assert "5 rows, 1 tombstones, 2.0 KiB" in output


def test_stats_show_the_kept_pictures(server: FakeServer, program: Program) -> None:
    """How many, how large, the bound, and what was left out; nothing where the server keeps none."""
    assert "pictures kept" not in program("stats").stdout
    server.kept_images = index_pb2.KeptImages(images=3, bytes=2048, bytes_max=4096, left_out=1)
    shown = program("stats").stdout
    for part in ("3, 2.0 KiB", "at most 4.0 KiB", "1 left out"):
        assert part in shown
    document = {"images": 3, "bytes": 2048, "bytes_max": 4096, "left_out": 1}
    assert program.document("stats")["kept_images"] == document


def test_stats_show_the_recall_estimate(server: FakeServer, program: Program) -> None:
    """Where there is none its line is missing; the JSON has it as the API does."""
    assert "recall" not in program("stats").stdout
    server.recall = index_pb2.RecallEstimate(recall=0.975, queries=1240)
    assert "0.9750 over 1,240 queries" in program("stats").stdout
    assert program.document("stats")["recall"] == {"recall": 0.975, "queries": 1240}


def test_snapshot_tells_its_generation(program: Program) -> None:
    """The new generation is described, for people and for programs."""
    assert program.document("snapshot") == SNAPSHOT
    assert program("snapshot").stdout.startswith("generation 4, 1 segment, 2.0 KiB, up to write 9, ")


def test_health_of_a_ready_server(server: FakeServer, program: Program) -> None:
    """A server that serves exits with 0 and says what it is."""
    document = program.document("health")
    assert (document["server"], document["status"]) == (server.address, "SERVING")
    assert document["info"]["version"] == "0.1.0"
    assert document["info"]["models"][0]["name"] == "toy"
    assert "toy (default)" in program("health").stdout


def test_health_of_a_starting_server(server: FakeServer, program: Program) -> None:
    """A server that answers and does not serve exits with 1."""
    server.status = health_pb2.HealthCheckResponse.NOT_SERVING
    server.fail_with = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="reading the index")
    result = program("--json", "health")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"server": server.address, "status": "NOT_SERVING", "info": None}
    assert json.loads(result.stderr)["error"]["code"] == "UNAVAILABLE"
