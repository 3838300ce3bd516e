"""The public API as a whole: what every request carries, and that the generated code is kept in step."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor import Descriptor, ServiceDescriptor

from clip_search.v1 import collection_pb2, embedding_pb2, index_pb2, search_pb2, server_pb2

ROOT = Path(__file__).resolve().parents[3]
MODULES: tuple[ModuleType, ...] = (collection_pb2, embedding_pb2, index_pb2, search_pb2, server_pb2)
METHODS = {
    "EmbeddingService": {"Embed"},
    "SearchService": {"Search", "Classify"},
    "IndexService": {
        "Upsert",
        "Ingest",
        "Delete",
        "GetItems",
        "ListItems",
        "GetThumbnails",
        "GetImage",
        "GetStats",
        "CreateSnapshot",
    },
    "CollectionService": {"CreateCollection", "ListCollections", "DeleteCollection", "SetAlias"},
    "ServerService": {"GetServerInfo"},
}
MODEL_METHODS = {"Embed", "Search", "Classify", "Upsert", "Ingest", "CreateCollection"}


def _services() -> dict[str, ServiceDescriptor]:
    return {name: service for module in MODULES for name, service in module.DESCRIPTOR.services_by_name.items()}


def _field_names(message: Descriptor) -> set[str]:
    return {field.name for field in message.fields}


def test_every_service_has_its_methods() -> None:
    """The API has the services and methods that clients were promised, and no others."""
    assert {name: {method.name for method in service.methods} for name, service in _services().items()} == METHODS


@pytest.mark.parametrize("method", sorted(METHODS["SearchService"] | METHODS["IndexService"]))
def test_data_requests_name_a_collection(method: str) -> None:
    """Every request that reads or writes items says in which collection."""
    (request,) = [
        descriptor.input_type
        for service in _services().values()
        for descriptor in service.methods
        if descriptor.name == method
    ]
    assert "collection" in _field_names(request)


def test_requests_that_embed_name_a_model() -> None:
    """A request names a model exactly when the model matters to it."""
    with_model = {
        method.name
        for service in _services().values()
        for method in service.methods
        if "model" in _field_names(method.input_type)
    }
    assert with_model == MODEL_METHODS


def test_stale_generated_code_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The generator's check names a file that differs, one that is missing and one that should not be there."""
    spec = importlib.util.spec_from_file_location("generate_protos", ROOT / "scripts" / "generate_protos.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    committed, fresh = tmp_path / "committed", tmp_path / "fresh"
    for folder, names in (
        (committed, ["a_pb2.py", "b_pb2.py", "d_pb2.pyi"]),
        (fresh, ["a_pb2.py", "b_pb2.py", "c_pb2.py"]),
    ):
        folder.mkdir()
        for name in names:
            (folder / name).write_text("same", encoding="utf-8")
    (committed / "b_pb2.py").write_text("edited by hand", encoding="utf-8")
    assert generator.check(committed, fresh) == 1
    reported = [Path(line.partition(":")[0]).name for line in capsys.readouterr().err.splitlines()]
    assert reported == ["b_pb2.py", "c_pb2.py", "d_pb2.pyi"]
    generator.replace(committed, fresh)
    assert generator.check(committed, fresh) == 0
