"""Certificates for tests: authorities, a server's files as renewals write them, and what a port shows to newcomers."""

import datetime as dt
import itertools
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from clip_search.credentials import TlsOptions

HOSTS = ("localhost", "127.0.0.1")
#: A validity that is over.
LAST_WEEK = (dt.datetime.now(dt.UTC) - dt.timedelta(days=9), dt.datetime.now(dt.UTC) - dt.timedelta(days=2))
_SECONDS = 10.0


@dataclass
class Authority:
    """Somebody who makes certificates, and a folder of its own for them."""

    folder: Path
    ca: trustme.CA = field(default_factory=trustme.CA)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.ca.cert_pem.write_to_path(str(self.file))

    @property
    def file(self) -> Path:
        """Its own certificate."""
        return self.folder / "ca.pem"

    def issue(
        self, *names: str, not_before: dt.datetime | None = None, not_after: dt.datetime | None = None
    ) -> trustme.LeafCert:
        """Make a certificate; by default for this machine, and valid."""
        return self.ca.issue_cert(*names or HOSTS, not_before=not_before, not_after=not_after)

    def client(self, *, expired: bool = False) -> tuple[Path, Path]:
        """Write a client's certificate and its key."""
        not_before, not_after = LAST_WEEK if expired else (None, None)
        made = self.issue("somebody@example.org", not_before=not_before, not_after=not_after)
        files = Files(self.folder / f"client-{next(self._numbers)}")
        files.write(made)
        return files.certificate, files.key

    def trusted(self, certificate: tuple[Path, Path] | None = None) -> TlsOptions:
        """Give a client's options that trust this authority, and show a certificate where there is one."""
        return TlsOptions(self.file, *certificate or ())


@dataclass
class Files:
    """A certificate's file and its key's, in a folder that is made for them."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def certificate(self) -> Path:
        """The certificate and those of its issuers."""
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        """Its private key."""
        return self.folder / "server.key"

    @property
    def options(self) -> list[str]:
        """What names them to `clip-search serve`."""
        return ["--tls-certificate", str(self.certificate), "--tls-key", str(self.key)]

    def write(self, made: trustme.LeafCert) -> None:
        """Write key and certificate one after the other, so that for a moment they do not match."""
        self.write_key(made.private_key_pem.bytes())
        self.certificate.write_bytes(chain(made))

    def write_key(self, content: bytes) -> None:
        """Write a key that nobody else can read."""
        self.key.touch(0o600)
        self.key.write_bytes(content)


def chain(made: trustme.LeafCert) -> bytes:
    """Give a certificate and those of its issuers, PEM."""
    return b"".join(pem.bytes() for pem in made.cert_chain_pems)


def encrypted(made: trustme.LeafCert) -> bytes:
    """Give the key of a certificate under a password, PEM."""
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), password=None)
    locked = serialization.BestAvailableEncryption(b"a password")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)


def der(made: trustme.LeafCert) -> bytes:
    """Give a certificate as connections show it."""
    found = x509.load_pem_x509_certificate(made.cert_chain_pems[0].bytes())
    return found.public_bytes(serialization.Encoding.DER)


def shown(address: str) -> bytes | None:
    """Open a connection of its own and give the certificate that the server shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), _SECONDS) as raw, context.wrap_socket(raw) as connection:
        return connection.getpeercert(binary_form=True)
