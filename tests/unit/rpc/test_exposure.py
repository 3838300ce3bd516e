"""Where a server may listen, and what it says of what is open there; no socket is opened."""

from pathlib import Path
from typing import Any, cast

import pytest
from grpc import aio

from clip_search_server.access.certificates import TlsFiles
from clip_search_server.errors import FailedPreconditionError
from clip_search_server.index import IndexSettings
from clip_search_server.limits import Limits
from clip_search_server.rpc import server as server_module
from clip_search_server.rpc.server import ServerOptions
from clip_search_server.rpc.tls import ServerTls

TLS = TlsFiles(Path("server.pem"), Path("server.key"))
MUTUAL = TlsFiles(Path("server.pem"), Path("server.key"), Path("ca.pem"))
KEYS = Path("keys.toml")
BEYOND = ["0.0.0.0:50051", "[::]:50051", "10.1.2.3:50051", "search.example.org:50051", "128.0.0.1:50051"]


class FakeServer:
    """Ports that are asked for, and taken where they are."""

    def __init__(self, *, taken: bool = False) -> None:
        self.ports: list[tuple[str, Any]] = []
        self._taken = taken

    def add_insecure_port(self, address: str) -> int:
        """Bind in plaintext."""
        return self.add_secure_port(address, None)

    def add_secure_port(self, address: str, credentials: object) -> int:
        """Bind with TLS."""
        if self._taken:
            raise RuntimeError("Failed to bind to address")
        self.ports.append((address, credentials))
        return 50051


class FakeTls:
    """TLS as a server takes it."""

    credentials = "credentials"


def bind(listen: str, server: FakeServer | None = None, **more: Any) -> list[tuple[str, Any]]:
    """Bind a port and return what was bound."""
    server = server or FakeServer()
    options: dict[str, Any] = {"bundles": {}, "data": Path("data"), "device": "cpu", "precision": "float"}
    options |= {"insecure": False, "drain_seconds": 1.0, "snapshot_interval_seconds": 1.0}
    options |= {"index": IndexSettings(), "limits": Limits(), **more}
    tls = cast("ServerTls", FakeTls()) if options.get("tls") else None
    server_module._bind(cast("aio.Server", server), ServerOptions(listen=listen, **options), tls)
    return server.ports


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.9.9.9:50051", "localhost:50051", "[::1]:50051"])
def test_on_loopback_nothing_is_asked_for(listen: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither TLS nor keys, and nothing is warned of."""
    assert bind(listen) == [(listen, None)]
    assert caplog.text == ""


@pytest.mark.parametrize("listen", BEYOND)
def test_beyond_loopback_plaintext_is_refused(listen: str) -> None:
    """The message says what could happen and what to do; keys alone do not help, for they could be read."""
    with pytest.raises(FailedPreconditionError, match="could read and write everything") as refused:
        bind(listen)
    for words in (f"--listen {listen}:", "127.0.0.1", "--tls-certificate and --tls-key", "--insecure"):
        assert words in str(refused.value)
    with pytest.raises(FailedPreconditionError, match="could read every key and request on the way"):
        bind(listen, api_keys=KEYS)


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"insecure": True}, "anyone who reaches this address can read and write everything; --api-keys or"),
        ({"tls": TLS}, "anyone who reaches this address can read and write everything; --api-keys or --tls-client-ca"),
        ({"insecure": True, "api_keys": KEYS}, "without TLS, API keys can be read on the way"),
        ({"tls": TLS, "api_keys": KEYS}, ""),
        ({"tls": MUTUAL}, ""),
        ({"tls": MUTUAL, "api_keys": KEYS}, ""),
    ],
)
def test_beyond_loopback_what_stays_open_is_warned_of(
    options: dict[str, Any], warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In one line that names the address; nothing where strangers are kept out."""
    assert bind(BEYOND[0], **options) == [(BEYOND[0], "credentials" if "tls" in options else None)]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == bool(warning)
    assert all(message.startswith(f"--listen {BEYOND[0]}: {warning}") for message in messages)


@pytest.mark.parametrize("listen", ["", "50051", ":50051", "localhost", "localhost:", "localhost:http", "localhost:-1"])
def test_what_is_no_address_is_told(listen: str) -> None:
    """With an example of what is."""
    with pytest.raises(FailedPreconditionError, match=r"is no HOST:PORT, such as 127\.0\.0\.1:50051"):
        bind(listen)


def test_a_port_in_use_is_told() -> None:
    """With both ways out, over TLS as without."""
    for options in ({}, {"tls": TLS}):
        with pytest.raises(FailedPreconditionError, match="Stop it, or choose another port"):
            bind("127.0.0.1:50051", FakeServer(taken=True), **options)
