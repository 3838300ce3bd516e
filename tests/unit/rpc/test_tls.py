"""TLS over a real port of gRPC, without models: who gets in, and what a renewal changes."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
import trustme
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from clip_search_server.access.certificates import TlsFiles
from clip_search_server.access.files import LOOK_INTERVAL_SECONDS
from clip_search_server.errors import FailedPreconditionError
from clip_search_server.rpc.tls import ServerTls

SECONDS = 5.0
PAST = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)


def write(folder: Path, certificate: trustme.LeafCert) -> TlsFiles:
    """Write a certificate and its key as renewals do: key first, so that for a moment they do not match."""
    files = TlsFiles(folder / "server.pem", folder / "server.key")
    certificate.private_key_pem.write_to_path(str(files.key))
    files.key.chmod(0o600)
    files.certificate.write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    return files


class Served:
    """A port with a health service."""

    def __init__(self, tls: ServerTls) -> None:
        self.server = aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), self.server)
        self.port = self.server.add_secure_port("127.0.0.1:0", tls.credentials)
        self.watch: asyncio.Task[None] | None = None
        self.tls = tls

    async def __aenter__(self) -> Self:
        await self.server.start()
        self.watch = asyncio.create_task(self.tls.watch(f"127.0.0.1:{self.port}"))
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self.watch is not None
        self.watch.cancel()
        await self.server.stop(0)

    def channel(self, roots: trustme.CA | None, client: trustme.LeafCert | None = None, host: str = "localhost") -> Any:
        """Open a channel of its own connection."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        if roots is None:
            return aio.insecure_channel(f"127.0.0.1:{self.port}", options)
        own = (
            (client.private_key_pem.bytes(), b"".join(pem.bytes() for pem in client.cert_chain_pems))
            if client
            else (None, None)
        )
        credentials = grpc.ssl_channel_credentials(roots.cert_pem.bytes(), *own)
        return aio.secure_channel(
            f"127.0.0.1:{self.port}", credentials, [*options, ("grpc.ssl_target_name_override", host)]
        )


async def status(channel: Any) -> grpc.StatusCode:
    """Ask for health and return how that ended."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    try:
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    except aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def asked(channel: Any) -> grpc.StatusCode:
    """Ask once on a channel and close it."""
    async with channel:
        return await status(channel)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    """Who the clients of these tests trust."""
    return trustme.CA()


@pytest.fixture
async def served(ca: trustme.CA, tmp_path: Path) -> AsyncIterator[Served]:
    """A port with a good certificate."""
    async with Served(ServerTls(write(tmp_path, ca.issue_cert("localhost")))) as running:
        yield running


async def test_only_tls_that_can_be_trusted_is_used(served: Served, ca: trustme.CA) -> None:
    """Plaintext, an authority that the client does not know and another host's name all fail."""
    assert await asked(served.channel(ca)) is grpc.StatusCode.OK
    assert await asked(served.channel(None)) is grpc.StatusCode.UNAVAILABLE
    assert await asked(served.channel(trustme.CA())) is grpc.StatusCode.UNAVAILABLE
    assert await asked(served.channel(ca, host="elsewhere")) is grpc.StatusCode.UNAVAILABLE


async def test_an_expired_certificate_is_served_and_refused(
    ca: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server starts and warns, since renewing is all that helps; clients refuse it."""
    files = write(tmp_path, ca.issue_cert("localhost", not_before=PAST - dt.timedelta(days=9), not_after=PAST))
    async with Served(ServerTls(files)) as running:
        assert await asked(running.channel(ca)) is grpc.StatusCode.UNAVAILABLE
    assert "expired" in caplog.text


async def test_clients_show_a_certificate_of_the_authority(ca: trustme.CA, tmp_path: Path) -> None:
    """None, one of another authority and an expired one do not get in."""
    clients = trustme.CA()
    plain = write(tmp_path, ca.issue_cert("localhost"))
    clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    expired = clients.issue_cert("someone", not_before=PAST - dt.timedelta(days=9), not_after=PAST)
    async with Served(ServerTls(TlsFiles(plain.certificate, plain.key, tmp_path / "clients.pem"))) as running:
        assert await asked(running.channel(ca, clients.issue_cert("someone"))) is grpc.StatusCode.OK
        for client in (None, trustme.CA().issue_cert("someone"), expired):
            assert await asked(running.channel(ca, client)) is grpc.StatusCode.UNAVAILABLE


async def test_a_renewal_drops_nothing(served: Served, ca: trustme.CA, tmp_path: Path) -> None:
    """Open connections go on, new ones get the new certificate, and broken files in between change nothing."""
    other = trustme.CA()
    async with served.channel(ca) as old:
        assert await status(old) is grpc.StatusCode.OK
        files = write(tmp_path, other.issue_cert("localhost"))
        async with asyncio.timeout(20):
            while await asked(served.channel(other)) is not grpc.StatusCode.OK:
                assert await status(old) is grpc.StatusCode.OK
        assert await asked(served.channel(ca)) is grpc.StatusCode.UNAVAILABLE
        assert await status(old) is grpc.StatusCode.OK
        files.certificate.write_text("half a certi", encoding="utf-8")
        await asyncio.sleep(4 * LOOK_INTERVAL_SECONDS)
        assert await asked(served.channel(other)) is grpc.StatusCode.OK


def test_messages_name_the_file_and_what_to_do(ca: trustme.CA, tmp_path: Path) -> None:
    """Of files that are missing, mixed up, damaged or do not belong together."""
    files = write(tmp_path, ca.issue_cert("localhost"))
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other", ca.issue_cert("localhost"))
    cases = {
        "cannot be read": TlsFiles(tmp_path / "nothing", files.key),
        "swapped": TlsFiles(files.key, files.certificate),
        "holds no private key": TlsFiles(files.certificate, files.certificate),
        "is not the key of the first certificate": TlsFiles(files.certificate, other.key),
        "holds no certificate": TlsFiles(_damaged(tmp_path), files.key),
    }
    for problem, given in cases.items():
        with pytest.raises(FailedPreconditionError, match=problem):
            ServerTls(given)


def _damaged(folder: Path) -> Path:
    path = folder / "damaged.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\nMIIB", encoding="utf-8")
    return path
