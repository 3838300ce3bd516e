"""What proves who the server and who the client is: certificates and the API key; knows nothing of gRPC.

A key opens the server to whoever reads it on its way. So it travels over TLS, or over plaintext within this machine,
and anywhere else only where the caller says so. It stands in no message and no `repr`.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from clip_search.errors import CredentialsError

__all__ = ["Pem", "TlsOptions", "check_api_key", "is_loopback", "key_metadata", "read_api_key"]

_PathLike: TypeAlias = str | os.PathLike[str]

_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?|unix:.*")
_KEY = re.compile(r"[\x21-\x7e]+")
_FILE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How a connection is encrypted and both ends are known; every file is PEM.

    Args:
        ca: file with the certificates that vouch for the server; None means the well-known authorities that gRPC
            brings along (or those of the file that `GRPC_DEFAULT_SSL_ROOTS_FILE_PATH` names).
        certificate: file with this client's certificate and what leads up to its authority, where the server wants one
            (mTLS).
        key: file with the key of that certificate, not encrypted.
        server_name: the name that the server's certificate is made out to, where it is not the host of the address.
    """

    ca: _PathLike | None = None
    certificate: _PathLike | None = None
    key: _PathLike | None = None
    server_name: str = ""

    def read(self) -> "Pem":
        """Read the files.

        Raises:
            CredentialsError: one cannot be read or used, or of certificate and key one is missing.
        """
        if (self.certificate is None) != (self.key is None):
            raise CredentialsError("a client's certificate and its key belong together: give both, or neither")
        pem = Pem(
            _read(self.ca, "the authorities' certificates"),
            _read(self.certificate, "the client's certificate"),
            _read(self.key, "the key of the client's certificate"),
        )
        self._try_out()
        return pem

    def _try_out(self) -> None:
        """Let OpenSSL read the files: gRPC would only say that something is wrong, and not before the first call."""
        import ssl  # noqa: PLC0415  # of no use to connections without TLS

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except ssl.SSLError as error:
            raise CredentialsError(f"cannot use the authorities' certificates: {self.ca}: {error.reason}") from error
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password="")  # an encrypted one is refused
        except ssl.SSLError as error:
            raise CredentialsError(
                f"cannot use the client's certificate {self.certificate} with the key {self.key}: {error.reason}"
            ) from error


@dataclass(frozen=True, slots=True, repr=False)
class Pem:
    """What `TlsOptions` name, as bytes."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None


def _read(path: _PathLike | None, what: str) -> bytes | None:
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            data = file.read(_FILE_BYTES_MAX)
    except OSError as error:
        raise CredentialsError(f"cannot read {what}: {path}: {error.strerror or error}") from error
    if b"-----BEGIN " not in data:
        raise CredentialsError(f"cannot use {what}: {path} is no PEM file (it has no line -----BEGIN …-----)")
    return data


def read_api_key(path: _PathLike) -> str:
    """Read a key from a file that holds nothing else; spaces and line ends around it do not count.

    Raises:
        CredentialsError: it cannot be read or holds no key.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(_FILE_BYTES_MAX).decode("ascii", "replace").strip()
    except OSError as error:
        raise CredentialsError(f"cannot read the API key: {path}: {error.strerror or error}") from error
    if not _KEY.fullmatch(text):
        raise CredentialsError(f"{path} holds no API key: one word of ASCII characters is expected, and nothing else")
    return text


def is_loopback(server: str) -> bool:
    """Tell whether an address, HOST:PORT or unix:PATH, leads to this machine by its spelling; nothing is looked up."""
    return _LOOPBACK.fullmatch(server) is not None


def check_api_key(api_key: str, server: str, *, tls: bool, without_tls: bool) -> None:
    """Check that a key can be sent, and may be on this connection.

    Raises:
        CredentialsError: it cannot or may not.
    """
    if not _KEY.fullmatch(api_key):
        raise CredentialsError("the API key is empty or holds spaces, line ends or characters beyond ASCII")
    if not (tls or without_tls or is_loopback(server)):
        raise CredentialsError(
            f"the API key is not sent to {server} without TLS, where everyone on the way could read it: use TLS "
            "(tls=TlsOptions(…), --tls), or allow it where the network keeps strangers out (api_key_without_tls=True, "
            "--api-key-without-tls)"
        )


def key_metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata that goes with every call."""
    return () if api_key is None else (("authorization", f"Bearer {api_key}"),)
