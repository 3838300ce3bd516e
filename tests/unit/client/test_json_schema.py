"""Every document of `search_client --json` is what `docs/search_client.schema.json` says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from clip_search.cli.program import COMMANDS
from clip_search.v1 import index_pb2, item_pb2
from tests.unit.client.conftest import Program
from tests.unit.client.fake_server import FakeServer

SCHEMA = json.loads((Path(__file__).resolve().parents[3] / "docs" / "search_client.schema.json").read_text("utf-8"))
DEFINITIONS: dict[str, Any] = SCHEMA["properties"]

CASES = [
    ("index", ["index", "{folder}"]),
    ("search", ["search", "dog", "--image", "{picture}", "--like", "a", "--not", "cat", "--filter", "year exists"]),
    ("search", ["search", "dog", "--ranking", "fused", "--min-score", "0"]),
    ("classify", ["classify", "{picture}", "cat", "dog", "--ensemble"]),
    ("get", ["get", "a", "--vectors"]),
    ("list", ["list", "--all"]),
    ("delete", ["delete", "a"]),
    ("collections list", ["collections", "list"]),
    ("collections create", ["collections", "create", "pets"]),
    ("collections delete", ["collections", "delete", "pets", "--yes"]),
    ("alias", ["alias", "pets", "default"]),
    ("snapshot", ["snapshot"]),
    ("embed", ["embed", "dog"]),
    ("embed", ["embed", "dog", "--image", "{picture}", "--output", "{folder}/all.npy"]),
    ("stats", ["stats"]),
    ("health", ["health"]),
]


def check(document: Any, schema: Any) -> None:
    """Hold a document to a part of the schema, all of whose definitions can be referred to."""
    jsonschema.validate(document, {**schema, "$defs": SCHEMA["$defs"]}, cls=jsonschema.Draft202012Validator)


def test_the_schema_is_one_and_knows_every_command() -> None:
    """And nothing that there is not."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert {name.split()[0] for name in DEFINITIONS} == set(COMMANDS)
    assert {name for name, _ in CASES} == set(DEFINITIONS)


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=[" ".join(arguments) for _, arguments in CASES])
def test_documents_are_as_the_schema_says(
    server: FakeServer, program: Program, photos: Callable[..., Path], name: str, arguments: list[str]
) -> None:
    """With everything in them that there can be; a key too many or too few is found."""
    folder = photos("a.png")
    attributes = {
        "year": item_pb2.AttributeValue(int_value=2024),
        "tags": item_pb2.AttributeValue(string_list_value=item_pb2.StringList(values=["x"])),
        "good": item_pb2.AttributeValue(bool_value=True),
        "share": item_pb2.AttributeValue(double_value=float("nan")),
        "taken": item_pb2.AttributeValue(timestamp_value=Timestamp(seconds=1_700_000_000)),
    }
    server.items["a"] = item_pb2.Item(id="a", attributes=attributes)
    server.recall = index_pb2.RecallEstimate(recall=0.9, queries=5)
    server.kept_images = index_pb2.KeptImages(images=1, bytes=2, bytes_max=3)
    places = {"folder": str(folder), "picture": str(folder / "a.png")}
    document = program.document(*(each.format(**places) for each in arguments))
    check(document, DEFINITIONS[name])
    with pytest.raises(jsonschema.ValidationError):
        check({**document, "further": 1}, DEFINITIONS[name])
    with pytest.raises(jsonschema.ValidationError):
        check(dict(list(document.items())[1:]), DEFINITIONS[name])


def test_lines_of_errors_failures_and_embeddings_are_too(
    program: Program, photos: Callable[..., Path], tmp_path: Path
) -> None:
    """What goes to stderr and into files."""
    folder = photos()
    (folder / "gone.png").symlink_to("nowhere.png")
    result = program("--json", "index", str(folder), "--failures", str(tmp_path / "failures.jsonl"))
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    for line in lines:
        check(json.loads(line), SCHEMA["$defs"]["error"])
    check(json.loads((tmp_path / "failures.jsonl").read_text()), SCHEMA["$defs"]["failure"])
    program("embed", "dog", "--output", str(tmp_path / "all.jsonl"))
    check(json.loads((tmp_path / "all.jsonl").read_text()), SCHEMA["$defs"]["embedding"])
