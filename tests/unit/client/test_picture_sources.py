"""Reading pictures again: from files, from the web and from the server, within bounds."""

import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from google.rpc import code_pb2, status_pb2

from clip_search.client import Client
from clip_search.errors import UnreachableError
from clip_search.picture_sources import PathSource, ServerSource, SourceError, UrlSource, read_first
from clip_search.results import Attribute, StoredItem
from tests.unit.client.fake_server import FakeServer

PICTURE = b"a picture" * 100


def item(**attributes: Attribute) -> StoredItem:
    """An item with these attributes."""
    return StoredItem("a.png", attributes, "", False, 1)


class Handler(BaseHTTPRequestHandler):
    """Answers by the path."""

    release = threading.Event()

    def do_GET(self) -> None:
        """Give a picture, or something else than that."""
        path, _, target = self.path.partition("?")
        if path == "/to":
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()
            return
        if path == "/slow":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x")
            self.wfile.flush()
            self.release.wait(30)
            return
        self.send_response({"/gone": 404, "/empty": 200}.get(path, 200))
        self.end_headers()
        if path not in {"/gone", "/empty"}:
            self.wfile.write(PICTURE)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def web() -> Iterator[str]:
    """The address of a web server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.release.clear()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Handler.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_read_by_its_path(tmp_path: Path) -> None:
    """Whatever the attribute is called."""
    path = tmp_path / "a.png"
    path.write_bytes(PICTURE)
    assert PathSource("path", 10_000).read(item(path=str(path))) == PICTURE
    assert PathSource("file", 10_000).read(item(file=str(path))) == PICTURE


def _pipe(folder: Path) -> Attribute:
    os.mkfifo(folder / "pipe")
    return str(folder / "pipe")


def _file(folder: Path, content: bytes) -> Attribute:
    (folder / "file").write_bytes(content)
    return str(folder / "file")


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (lambda folder: str(folder / "gone"), "No such file"),
        (str, "no regular file"),
        (_pipe, "no regular file"),
        (lambda folder: _file(folder, b"x" * 1_001), "more than the 1,000 bytes"),
        (lambda folder: _file(folder, b""), "is empty"),
        (lambda _: "a\0b", "no path"),
        (lambda _: 5, "no text"),
        (lambda _: "", "no text"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, place: Callable[[Path], Attribute], problem: str) -> None:
    """And nothing waits for a pipe."""
    with pytest.raises(SourceError, match=problem):
        PathSource("path", 1_000).read(item(path=place(tmp_path)))


def test_an_item_without_the_attribute_says_so() -> None:
    """By its name."""
    with pytest.raises(SourceError, match="no attribute url"):
        UrlSource("url", 1_000, timeout_seconds=1).read(item(path="x"))


def test_an_address_is_fetched_and_redirections_are_followed(web: str) -> None:
    """Within http and https."""
    source = UrlSource("url", 10_000, timeout_seconds=30)
    assert source.read(item(url=f"{web}/picture")) == PICTURE
    assert source.read(item(url=f"{web}/to?{web}/picture")) == PICTURE


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("{web}/gone", "answers 404"),
        ("{web}/empty", "is empty"),
        ("{web}/to?file:///etc/passwd", "file:///etc/passwd"),
        ("{web}/to?ftp://127.0.0.1/x", "ftp://127.0.0.1/x.*only http"),
        ("{web}/to?/to?/to", "answers 302"),
        ("file:///etc/passwd", "only http and https"),
        ("/etc/passwd", "only http and https"),
        ("data:image/png;base64,AAAA", "only http and https"),
        ("http://", "no host|address"),
        ("http://[", "no address"),
        ("http://127.0.0.1:1/x", "refused"),
        ("{web}/a b", "control characters"),
    ],
)
def test_an_address_that_cannot_be_read_says_why(web: str, address: str, problem: str) -> None:
    """No scheme but http and https is ever opened, redirections included."""
    with pytest.raises(SourceError, match=problem):
        UrlSource("url", 10_000, timeout_seconds=30).read(item(url=address.format(web=web)))


def test_what_is_too_large_or_too_slow_is_given_up(web: str) -> None:
    """In bytes and in time."""
    with pytest.raises(SourceError, match="more than the 100 bytes"):
        UrlSource("url", 100, timeout_seconds=30).read(item(url=f"{web}/picture"))
    with pytest.raises(SourceError, match="in time"):
        UrlSource("url", 100, timeout_seconds=0.2).read(item(url=f"{web}/slow"))


def test_the_server_gives_what_it_keeps(server: FakeServer, client: Client) -> None:
    """What it does not keep is a reason; a server that does not answer is no fault of the item."""
    server.images["a.png"] = PICTURE
    assert ServerSource(client).read(item()) == PICTURE
    server.images.clear()
    with pytest.raises(SourceError, match="keeps no picture"):
        ServerSource(client).read(item())
    server.fail_with = status_pb2.Status(code=code_pb2.DATA_LOSS, message="its checksum fails")
    with pytest.raises(SourceError, match="its checksum fails"):
        ServerSource(client).read(item())
    server.stop()
    with pytest.raises(UnreachableError):
        ServerSource(client).read(item())


def test_the_first_source_that_has_the_picture_counts(tmp_path: Path) -> None:
    """And if none has it, every reason is told."""
    (tmp_path / "a.png").write_bytes(PICTURE)
    sources = [PathSource("other", 10_000), PathSource("path", 10_000)]
    assert read_first(sources, item(path=str(tmp_path / "a.png"))) == PICTURE
    with pytest.raises(SourceError, match=r"no attribute other; .*No such file"):
        read_first(sources, item(path=str(tmp_path / "b.png")))
