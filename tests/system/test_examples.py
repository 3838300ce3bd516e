"""The programs in `examples/`, run as they stand against a real server. Node's needs a package index of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.server_process import ServerProcess

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
STORED = {"stored example/apple", "stored example/pear", "stored example/whale"}
REST = ["found example/whale animal", "refused INVALID_ARGUMENT", "deleted 3"]


@pytest.fixture(scope="module")
def address(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that holds nothing; each example deletes what it stores."""
    folder = tmp_path_factory.mktemp("examples")
    with ServerProcess.start(bundle, folder / "data", log=folder / "log") as running:
        yield running.address


def run(*command: str, folder: Path = ROOT, **environment: str) -> str:
    """Run a program, expect success, and give what it prints."""
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=folder,
        env=os.environ | environment,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def check_lines(output: str) -> None:
    """Expect what every example prints; what is stored may be answered in any order."""
    lines = output.splitlines()
    assert set(lines[:3]) == STORED
    assert lines[3:] == REST


@pytest.mark.parametrize("example", ["search.py", "search_async.py"])
def test_python(address: str, example: str) -> None:
    """Both Python clients."""
    check_lines(run(sys.executable, str(EXAMPLES / "python" / example), address))


@pytest.mark.timeout(300)
def test_node(address: str, tmp_path: Path) -> None:
    """Node on `@grpc/grpc-js`, with the protos read at run time."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node or npm is missing (Debian: apt install nodejs npm)")
    shutil.copytree(EXAMPLES / "node", tmp_path / "node", ignore=shutil.ignore_patterns("node_modules"))
    run("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", folder=tmp_path / "node")
    check_lines(run("node", "search.js", address, str(ROOT / "proto"), folder=tmp_path / "node"))


@pytest.mark.parametrize("schema", ["", str(ROOT)], ids=["reflection", "protos"])
def test_buf_curl(address: str, schema: str) -> None:
    """The shell, with the API from the server's reflection or from the checkout."""
    buf = Path(sys.executable).with_name("buf")
    output = run(str(EXAMPLES / "buf" / "search.sh"), address, *filter(None, [schema]), BUF=str(buf))
    before, refused, after = output.partition("refused\n")
    assert refused
    upserted, found = _documents(before)
    assert [result["id"] for result in upserted["results"]] == ["example/apple", "example/pear", "example/whale"]
    assert [hit["id"] for hit in found["hits"]] == ["example/whale"]
    assert _documents(after)[0]["deleted"] == "3"


def _documents(text: str) -> list[dict[str, Any]]:
    """Read JSON documents that stand one behind the other."""
    decoder, documents = json.JSONDecoder(), []
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        documents.append(document)
        text = text[end:]
    return documents
