"""What importing a package pulls in."""

import subprocess
import sys

import pytest

HEAVY_MODULES = ["apsw", "faiss", "hnswlib", "onnx", "onnxruntime", "tokenizers", "torch", "transformers", "usearch"]
SERVER_SIDE = ["clip_search_server", "clip_search_export"]


def _loaded_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in result.stdout.split()}


@pytest.mark.parametrize(
    "module", ["clip_search", "clip_search.launcher", "clip_search.cli", "clip_search.v1.search_pb2_grpc"]
)
def test_client_stays_light(module: str) -> None:
    """Importing the client loads neither the server, nor the exporter, nor an inference runtime."""
    loaded = _loaded_after(f"import {module}")
    assert "clip_search" in loaded
    assert not loaded & {*HEAVY_MODULES, *SERVER_SIDE}


@pytest.mark.parametrize("package", SERVER_SIDE)
def test_importing_a_package_alone_loads_no_runtime(package: str) -> None:
    """The top packages of server and exporter are cheap to import: their parts are imported by name."""
    assert not _loaded_after(f"import {package}") & {*HEAVY_MODULES, "grpc"}


def test_a_server_that_sends_no_traces_does_without_opentelemetry() -> None:
    """It is imported once traces are asked for."""
    assert "opentelemetry" not in _loaded_after("import clip_search_server.commands")


def test_commands_can_be_described_without_a_runtime() -> None:
    """`clip-search --help` imports neither the server nor the exporter."""
    run_help = "from clip_search.launcher import main\nmain(['--help'], standalone_mode=False)"
    assert not _loaded_after(run_help) & {*HEAVY_MODULES, *SERVER_SIDE}
