"""`clip-search reembed`: what it refuses before anything is changed, and what it says of a run."""

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clip_search.cli.reembed_command import reembed
from clip_search.v1 import collection_pb2, index_pb2, server_pb2
from tests.unit.client.fake_server import FakeServer

CHANGES = (collection_pb2.CreateCollectionRequest, collection_pb2.SetAliasRequest)


def collection(name: str, space: str, *aliases: str, items: int = 0, dim: int = 3) -> collection_pb2.Collection:
    """A collection as it is listed."""
    reason = "" if dim else "its store is damaged"
    return collection_pb2.Collection(
        name=name, space_id=space, embedding_dim=dim, items=items, aliases=aliases, unusable_reason=reason
    )


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip_search.cli.reembed_command._QUIET_SECONDS", 0.05)


@pytest.fixture
def server(server: FakeServer) -> FakeServer:
    """A server with two models and collections of both."""
    server.models = [server_pb2.ModelInfo(name=name, space_id=f"space-{name}") for name in ("a", "b")]
    server.collections = [
        collection("default", "space-a"),
        collection("torn", "space-a", dim=0),
        collection("v1", "space-a", "photos"),
        collection("v2", "space-b"),
        collection("live", "space-b", "pets"),
        collection("other", "space-c", "elsewhere"),
    ]
    return server


def run(server: FakeServer, folder: Path, line: str, *, json_too: bool = True) -> Result:
    """Run it in this process with the options of a line, listing what is missing in a folder."""
    shared = ["--server", server.address, "--missing", str(folder / "missing.jsonl"), *(["--json"] if json_too else [])]
    return CliRunner().invoke(reembed, [*shared, *shlex.split(line)])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--from nowhere --to v2 --model b", "--from nowhere: there is no such collection; there is default, torn, v1"),
        ("--from torn --to v2 --model b", "it cannot be read: its store is damaged"),
        ("--from v1 --to v2 --model c", "the server has no such model; it has a, b"),
        ("--from v1 --to v2 --model a", "v1 is of this model's space already"),
        ("--from photos --to v1 --model b", "is the collection that --from means too"),
        ("--from v1 --to photos --model b", "--to photos: is an alias of v1"),
        ("--from v1 --to other --model b", "is of space space-c, and model b of space-b"),
        ("--from v1 --to live --model b", "--to live: is in use as pets"),
        ("--from v1 --to v2 --model b --alias default", "--alias default: is another collection itself"),
        ("--from v1 --to v2 --model b --alias pets", "points at live, neither at v1 nor at v2"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_changed(
    server: FakeServer, tmp_path: Path, arguments: str, problem: str
) -> None:
    """Exit code 1, one sentence, no collection made and no alias moved."""
    result = run(server, tmp_path, arguments)
    assert result.exit_code == 1
    assert problem in json.loads(result.stderr)["error"]["message"]
    assert not any(isinstance(request, CHANGES) for request in server.requests)


@pytest.mark.parametrize("value", ["ftp", "path=", "server=x", "", "URL"])
def test_an_unknown_source_is_a_usage_error(server: FakeServer, tmp_path: Path, value: str) -> None:
    """With what there is."""
    result = run(server, tmp_path, f"--from v1 --to v2 --model b --source '{value}'")
    assert result.exit_code == 2
    assert "path=ATTRIBUTE" in result.stderr


def test_an_alias_that_has_moved_already_leaves_nothing_to_do(server: FakeServer, tmp_path: Path) -> None:
    """Running the same command again, by whatever name, is no error."""
    server.collections = [collection("v1", "space-a"), collection("v2", "space-b", "photos")]
    for old in ("v1", "photos"):
        result = run(server, tmp_path, f"--from {old} --to v2 --model b --alias photos", json_too=False)
        assert (result.exit_code, result.stdout) == (0, "photos is v2 already: there is nothing to do\n")


def test_a_new_alias_is_made_and_can_be_removed_again(server: FakeServer, tmp_path: Path) -> None:
    """The collection is made for the model, and the way back is told."""
    result = run(server, tmp_path, "--from v1 --to v3 --model b --alias fresh", json_too=False)
    assert result.exit_code == 0, result.output
    created = server.last(collection_pb2.CreateCollectionRequest)
    assert (created.collection, created.model) == ("v3", "b")
    assert server.aliases == {"fresh": "v3"}
    assert f"back: search_client --server {server.address} alias fresh --remove" in result.stdout
    assert not (tmp_path / "missing.jsonl").exists()


def test_without_an_alias_nothing_is_switched(server: FakeServer, tmp_path: Path) -> None:
    """The command that would is told."""
    result = run(server, tmp_path, "--from v1 --to v2 --model b", json_too=False)
    assert result.exit_code == 0
    assert server.aliases == {}
    assert f"to switch: search_client --server {server.address} alias NAME v2" in result.stderr


def test_a_list_of_an_earlier_run_does_not_stay_when_nothing_is_missing(server: FakeServer, tmp_path: Path) -> None:
    """It is emptied."""
    (tmp_path / "missing.jsonl").write_text("old", encoding="utf-8")
    assert run(server, tmp_path, "--from v1 --to v2 --model b").exit_code == 0
    assert (tmp_path / "missing.jsonl").read_text(encoding="utf-8") == ""


def test_a_collection_that_is_still_written_to_is_told(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the alias has moved: what comes later is not in the new collection."""
    monkeypatch.setattr("clip_search.cli.reembed_command._SETTLING_SECONDS_MAX", 0.0)
    line = "--from v1 --to v2 --model b --alias fresh"
    assert "still writes" not in run(server, tmp_path, line, json_too=False).stderr
    server.writes_per_stats = 1
    result = run(server, tmp_path, line, json_too=False)
    assert result.exit_code == 0
    assert "something still writes to v1" in result.stderr


def test_a_collection_whose_name_the_alias_takes_is_kept_under_another(server: FakeServer, tmp_path: Path) -> None:
    """It gets it first, goes on being read by it, and both ways are told."""
    line = "--from default --to v3 --model b --alias default"
    result = run(server, tmp_path, line, json_too=False)
    assert result.exit_code == 0, result.output
    assert server.aliases == {"default-old": "default", "default": "v3"}
    assert "is now asked for as default-old" in result.stdout
    assert "alias default --remove" in result.stdout
    read = [each.collection for each in server.requests if isinstance(each, index_pb2.ListItemsRequest)]
    assert "default-old" in read
    assert "default" not in read


def test_a_name_that_it_has_already_will_do(server: FakeServer, tmp_path: Path) -> None:
    """No further one is made."""
    result = run(server, tmp_path, "--from v1 --to v3 --model b --alias v1")
    assert json.loads(result.stdout)["from_is_now"] == "photos"
    assert server.aliases == {"v1": "v3"}


def test_a_name_that_is_taken_by_another_is_refused(server: FakeServer, tmp_path: Path) -> None:
    """With the command that gives it another."""
    server.collections.append(collection("default-old", "space-a"))
    result = run(server, tmp_path, "--from default --to v3 --model b --alias default")
    assert result.exit_code == 1
    assert "search_client alias NAME default" in json.loads(result.stderr)["error"]["message"]
    assert not any(isinstance(request, CHANGES) for request in server.requests)
