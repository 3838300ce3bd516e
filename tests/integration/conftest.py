"""A real server over the demo model, started once for all integration tests."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from PIL import Image

from demo.server_process import ServerProcess

Png = Callable[..., bytes]


@pytest.fixture(scope="session")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose segments are so small that HNSW is in use."""
    folder = tmp_path_factory.mktemp("server")
    with ServerProcess.start(bundle, folder / "data", log=folder / "log", options=["--segment-rows", "64"]) as running:
        yield running


@pytest.fixture(scope="session")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    """A channel to the server."""
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture(scope="session")
def png() -> Png:
    """A maker of PNG pictures of one colour."""

    def make(colour: str | tuple[int, int, int], size: tuple[int, int] = (60, 40), mode: str = "RGB") -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, size, colour).save(buffer, "PNG")
        return buffer.getvalue()

    return make
