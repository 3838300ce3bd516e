"""`docs/api.md`: it says what the protos say, and tells when it is stale."""

import importlib.util
import re
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from clip_search_server.limits import Limits

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "api.md"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("generate_api_page", ROOT / "scripts" / "generate_api_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def proto_file() -> FileDescriptorProto:
    """A file with what the page tells apart: a service, a choice, a map, an optional and a repeated field."""
    file = FileDescriptorProto(name="clip_search/v1/pets.proto", package="clip_search.v1")
    service = file.service.add(name="PetService")
    service.method.add(name="Feed", input_type=".clip_search.v1.Pet", output_type=".clip_search.v1.Pet")
    service.method[0].client_streaming = True
    pet = file.message_type.add(name="Pet")
    pet.oneof_decl.add(name="kind")
    pet.field.add(name="cat", type=FieldDescriptorProto.TYPE_STRING, oneof_index=0)
    pet.field.add(name="names", type=FieldDescriptorProto.TYPE_STRING, label=FieldDescriptorProto.LABEL_REPEATED)
    pet.oneof_decl.add(name="_age")
    pet.field.add(name="age", type=FieldDescriptorProto.TYPE_UINT32, oneof_index=1, proto3_optional=True)
    entry = pet.nested_type.add(name="FriendsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", type=FieldDescriptorProto.TYPE_STRING)
    entry.field.add(name="value", type=FieldDescriptorProto.TYPE_MESSAGE, type_name=".clip_search.v1.Pet")
    friends = pet.field.add(name="friends", type=FieldDescriptorProto.TYPE_MESSAGE)
    friends.type_name = ".clip_search.v1.Pet.FriendsEntry"
    friends.label = FieldDescriptorProto.LABEL_REPEATED
    for path, comment in (
        ([6, 0, 2, 0], " Feeds `Pet.cat`.\n Errors:\n - NOT_FOUND: no `pet` | no food.\n"),
        ([4, 0, 8, 0], " One of them.\n"),
        ([4, 0, 2, 0], " First.\n\n Second | third.\n"),
    ):
        file.source_code_info.location.add(path=path, leading_comments=comment)
    return file


def test_the_page_shows_every_kind_of_part(generator: ModuleType) -> None:
    """Links to messages and fields, choices with their comment, maps, and lists that Markdown takes for lists."""
    text = generator.Page([proto_file()])
    lines = [*text._services(), *text._messages()]
    assert "stream [Pet](#pet) → [Pet](#pet)" in lines
    assert "Feeds [`Pet.cat`](#pet).\nErrors:\n\n- `NOT_FOUND`: no `pet` | no food." in lines
    assert lines[lines.index("| **kind** | one of these | One of them. |") + 1 :][:4] == [
        r"| · `cat` | string | First.<br>Second \| third. |",
        "| `names` | repeated string |  |",
        "| `age` | optional uint32 |  |",
        "| `friends` | map of string to [Pet](#pet) |  |",
    ]


def test_two_headings_of_one_name_are_refused(generator: ModuleType) -> None:
    """A link could lead to either."""
    file = proto_file()
    file.message_type.add(name="pet")
    with pytest.raises(ValueError, match="has the anchor pet already"):
        generator.Page([file])


def test_a_stale_page_is_reported(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check fails on any other text and on no page, and changes nothing; writing mends it."""
    page = tmp_path / "api.md"
    monkeypatch.setattr(generator, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["generate_api_page", "--check"])
    assert generator.main() == 1
    page.write_text(PAGE.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert generator.main() == 1
    assert capsys.readouterr().err.count("not what `make protos` writes") == 2
    monkeypatch.setattr(sys, "argv", ["generate_api_page"])
    assert generator.main() == 0
    monkeypatch.setattr(sys, "argv", ["generate_api_page", "--check"])
    assert generator.main() == 0


def test_every_link_of_the_page_leads_somewhere() -> None:
    """Each anchor is that of one heading."""
    text = PAGE.read_text(encoding="utf-8")
    anchors = [re.sub(r"[^\w-]", "", title.lower()) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert len(links) > 50
    assert links <= set(anchors)
    assert len(anchors) == len(set(anchors))


def test_the_defaults_that_the_page_gives_are_the_servers() -> None:
    """Each bound's comment ends with the number that the server has when nobody sets another."""
    (section,) = re.findall(r"^### Limits$(.*?)^##", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    told = dict(re.findall(r"^\| `(\w+)` \|.*Default ([\d,]+)", section, re.MULTILINE))
    server = asdict(Limits())
    assert len(told) == len(re.findall(r"^\| `", section, re.MULTILINE))
    assert {name: int(text.replace(",", "")) for name, text in told.items()} == {name: server[name] for name in told}
