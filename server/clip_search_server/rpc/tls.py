"""TLS of the gRPC port: credentials that follow their files; knows nothing of calls.

gRPC asks for the certificate at the start of every handshake (`dynamic_ssl_server_credentials`), on threads of its own,
so what it is told must be ready: the files are followed here. Connections that are open go on as they are; new ones
get the new certificate and are checked against the new authorities. Files that do not belong together, are half
written or have expired change nothing, and the log says so.

Replacing a certificate in gRPC (up to 1.85 at least, issue 36693 of grpc/grpc) frees what the old one was kept in, even
where another thread is just beginning a handshake from it, and then the process crashes. A handshake that has begun
holds on to it. So, before the new certificate is handed out, a connection of our own begins one and stays in the middle
of it until all other threads have long moved on; a second connection then fetches the new certificate and sees it.
"""

import asyncio
import contextlib
import datetime as dt
import logging
import ssl
from collections.abc import Callable

import grpc

from clip_search_server.access.certificates import Identity, TlsFiles
from clip_search_server.access.files import LOOK_INTERVAL_SECONDS, WatchedFiles
from clip_search_server.errors import FailedPreconditionError

__all__ = ["ServerTls"]

_LOG = logging.getLogger(__name__)

_STEP_SECONDS_MAX = 5.0
_HOLD_SECONDS = 5.0
_WARNING_INTERVAL = dt.timedelta(days=1)
_RECEIVED_BYTES_MAX = 2**16
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}  # noqa: S104 - addresses to reach oneself by


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class ServerTls:
    """The server's certificate as it is now.

    Args:
        files: where it is.
        now: tells the time, with its zone.

    Raises:
        FailedPreconditionError: the files cannot be used; the message says why.
    """

    def __init__(self, files: TlsFiles, now: Callable[[], dt.datetime] = _utc_now) -> None:
        self._files, self._now = files, now
        self._watched = WatchedFiles(files.paths)
        self._identity = Identity.read(files)
        self._coming: grpc.ServerCertificateConfiguration | None = None
        self._held: asyncio.StreamWriter | None = None
        self._warned_at: dt.datetime | None = None
        for warning in files.warnings():
            _LOG.warning("%s", warning)
        self._warn_of_dates()
        self.credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(self._identity),
            self._fetch,  # type: ignore[arg-type]  # the stubs forget that None means no change
            require_client_authentication=files.client_ca is not None,
        )

    async def watch(self, address: str) -> None:
        """Follow files and calendar until cancelled.

        Args:
            address: HOST:PORT that the server listens on.
        """
        try:
            while True:
                await asyncio.sleep(LOOK_INTERVAL_SECONDS)
                if await asyncio.to_thread(self._watched.have_changed):
                    await self._renew(address)
                self._warn_of_dates()
        finally:
            self._let_go()

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the certificate to change to, None for the one in use; gRPC calls this on its threads, one by one."""
        coming, self._coming = self._coming, None
        return coming

    async def _renew(self, address: str) -> None:
        try:
            identity = await asyncio.to_thread(self._read_usable)
        except FailedPreconditionError as error:
            _LOG.error("%s The certificate that was in use stays in use.", error)
            return
        self._let_go()
        self._held = await _begin_handshake(address)
        self._coming, self._identity, self._warned_at = _configuration(identity), identity, None
        served = await _served_certificate(address)
        if self._held is not None:
            asyncio.get_running_loop().call_later(_HOLD_SECONDS, self._let_go, self._held)
        if served is not None and served != identity.leaf:
            _LOG.error("gRPC does not take the new certificate; the one that was in use stays in use")
            return
        _LOG.info("new certificate, for %s, until %s", ", ".join(identity.names) or "no host", identity.ends)

    def _let_go(self, held: asyncio.StreamWriter | None = None) -> None:
        """Close the connection that holds on to the last certificate; given one, only where it is still that one."""
        if self._held is not None and held in {None, self._held}:
            self._held.close()
            self._held = None

    def _read_usable(self) -> Identity:
        """Return the new identity; one that clients refuse by its dates is worse than one that they accept."""
        identity, now = Identity.read(self._files), self._now()
        if self._identity.is_valid_at(now) and not identity.is_valid_at(now):
            raise FailedPreconditionError(f"--tls-certificate {self._files.certificate}: {identity.warning_at(now)}.")
        return identity

    def _warn_of_dates(self) -> None:
        now = self._now()
        if self._warned_at is not None and now - self._warned_at < _WARNING_INTERVAL:
            return
        warning = self._identity.warning_at(now)
        if warning:
            self._warned_at = now
            _LOG.warning("--tls-certificate %s: %s", self._files.certificate, warning)


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(identity.key, identity.chain)], identity.client_ca)


async def _begin_handshake(address: str) -> asyncio.StreamWriter | None:
    """Return a connection in the middle of its handshake, None where the server cannot be reached from here."""
    outgoing, session = ssl.MemoryBIO(), _any_server()
    client = session.wrap_bio(ssl.MemoryBIO(), outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    try:
        async with asyncio.timeout(_STEP_SECONDS_MAX):
            reader, writer = await asyncio.open_connection(*_reachable(address))
            writer.write(outgoing.read())
            # Its answer shows that the server's side of the handshake exists.
            await reader.read(1)
    except (OSError, TimeoutError):
        return None
    return writer


async def _served_certificate(address: str) -> bytes | None:
    """Return the certificate (DER) that new connections get, None where the server cannot be reached from here."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = _any_server().wrap_bio(incoming, outgoing)
    try:
        async with asyncio.timeout(_STEP_SECONDS_MAX):
            reader, writer = await asyncio.open_connection(*_reachable(address))
            try:
                while True:
                    try:
                        client.do_handshake()
                        return client.getpeercert(binary_form=True)
                    except ssl.SSLWantReadError:
                        writer.write(outgoing.read())
                    received = await reader.read(_RECEIVED_BYTES_MAX)
                    if not received:
                        return None
                    incoming.write(received)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None


def _any_server() -> ssl.SSLContext:
    """Return settings for looking at a certificate, whosesoever it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # a client that shows no certificate still sees the server's
    context.set_alpn_protocols(["h2"])
    return context


def _reachable(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return _WILDCARDS.get(host, host.strip("[]")), int(port)
