import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clip_search.cli import main
from clip_search.client import Client
from tests.unit.client.fake_server import FakeServer
from tests.unit.client.ingesting import Send, send_awaiting, send_blocking

# The smallest PNG there is: one grey pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636800000082008177cd72b60000000049454e44ae426082"
)


@pytest.fixture
def png() -> bytes:
    """A picture."""
    return PNG


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server with canned behaviour."""
    fake = FakeServer()
    yield fake
    fake.stop()


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    """A client of that server."""
    with Client(server.address, timeout_seconds=60) as connected:
        yield connected


@pytest.fixture(params=[send_blocking, send_awaiting], ids=["sync", "async"])
def send(request: pytest.FixtureRequest) -> Send:
    """Both clients, one after the other."""
    chosen: Send = request.param
    return chosen


@dataclass
class Program:
    """Runs `search_client` against the server."""

    address: str

    def __call__(self, *arguments: str) -> Result:
        """Run it in this process."""
        return CliRunner().invoke(main, ["--server", self.address, *arguments])

    def document(self, *arguments: str) -> Any:
        """Run it with --json, expect success, and read what it prints."""
        result = self("--json", *arguments)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return json.loads(result.stdout)

    def error(self, *arguments: str) -> Any:
        """Run it with --json, expect failure, and read the last error."""
        result = self("--json", *arguments)
        assert result.exit_code == 1, result.output
        return json.loads(result.stderr.splitlines()[-1])["error"]

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start it as a process of its own."""
        command = [sys.executable, "-c", "from clip_search.cli import main; main()", "--server", self.address]
        paths = os.pathsep.join(path for path in sys.path if path)
        return subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )


@pytest.fixture
def program(server: FakeServer) -> Program:
    """`search_client`, talking to the fake server."""
    return Program(server.address)


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder `photos` with pictures of the given names."""

    def make(*names: str) -> Path:
        folder = tmp_path / "photos"
        folder.mkdir(exist_ok=True)
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(PNG)
        return folder

    return make
