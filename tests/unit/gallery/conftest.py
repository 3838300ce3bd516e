import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from clip_search.client import Client
from clip_search.v1 import item_pb2, server_pb2
from clip_search_gallery.app import Settings, create_app
from clip_search_gallery.pictures import PictureFolders
from tests.unit.client.conftest import PNG
from tests.unit.client.fake_server import FakeServer


class PictureServer(FakeServer):
    """A server whose items know a digest of their content, unless a test takes it away."""

    digest = b"\x01" * 32

    def __init__(self) -> None:
        super().__init__()
        self.limits = server_pb2.Limits(
            message_bytes_max=64 * 1024 * 1024, image_bytes_max=1_000_000, search_limit_max=100
        )
        self.versions: dict[str, int] = {}
        self.deleted_after_search = ""

    def put(
        self, item_id: str, attributes: Mapping[str, str] | None = None, *, thumbnail: bytes = b"", text: str = ""
    ) -> None:
        """Store an item, as a new version where there is one."""
        values = {name: item_pb2.AttributeValue(string_value=value) for name, value in (attributes or {}).items()}
        self.items[item_id] = item_pb2.Item(id=item_id, attributes=values, thumbnail=thumbnail, text=text)
        self.versions[item_id] = self.sequence()

    def Search(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Find every item; then lose the one that the test wants lost."""
        found = super().Search(request, context)
        self.items.pop(self.deleted_after_search, None)
        return found

    def _stored_item(self, item: Any, *, vector: bool) -> Any:
        stored = super()._stored_item(item, vector=vector)
        stored.sequence = self.versions[item.id]
        stored.content_digest = self.digest and hashlib.sha256(item.thumbnail).digest()
        return stored


@pytest.fixture
def png() -> bytes:
    """A picture."""
    return PNG


@pytest.fixture
def server() -> Iterator[PictureServer]:
    """A server with canned behaviour."""
    fake = PictureServer()
    yield fake
    fake.stop()


@pytest.fixture
def browse(server: PictureServer) -> Iterator[Callable[..., TestClient]]:
    """Opens a gateway to the server, as a browser on this machine reaches it."""
    opened: list[TestClient] = []

    def open_gateway(*folders: Path, names: tuple[str, ...] = (), address: str = "") -> TestClient:
        settings = Settings(
            lambda: Client(address or server.address, timeout_seconds=20),
            folders=PictureFolders(folders),
            host_names=names,
        )
        client = TestClient(create_app(settings), base_url="http://localhost:8080", follow_redirects=False)
        client.__enter__()
        opened.append(client)
        return client

    yield open_gateway
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def browser(browse: Callable[..., TestClient]) -> TestClient:
    """A browser at a gateway that shows no folder."""
    return browse()
