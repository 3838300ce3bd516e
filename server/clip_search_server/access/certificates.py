"""The server's certificate, its key and the authorities of clients, as PEM files; knows nothing of gRPC and sockets.

They are checked here because a TLS library says of a bad file that binding failed, and of one that no client would
accept nothing at all.
"""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from clip_search_server.access.files import read_bounded, who_else_may
from clip_search_server.errors import FailedPreconditionError

__all__ = ["Identity", "TlsFiles"]

_CERTIFICATE, _KEY, _CLIENT_CA = "--tls-certificate", "--tls-key", "--tls-client-ca"
#: A certificate is near its end in the last fifth of its life, and in the last two weeks at most.
_NEAR_END_DAYS_MAX = 14
_NEAR_END_SHARE = 5
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where certificates are; `client_ca` None asks clients for none."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.certificate, self.key, *([self.client_ca] if self.client_ca else []))

    def warnings(self) -> list[str]:
        """Return what strangers on this machine may do and should not."""
        found = [who_else_may(path, read=path == self.key) for path in self.paths]
        return [warning for warning in found if warning]


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """What the server proves itself by, checked.

    Attributes:
        chain: its certificate and those of its issuers, PEM.
        key: its private key, PEM.
        client_ca: who vouches for clients, PEM; None where clients need no certificate.
        leaf: its certificate, DER.
        names: the hosts and addresses it is for.
        begins, ends: when it is valid.
    """

    chain: bytes
    key: bytes
    client_ca: bytes | None
    leaf: bytes
    names: tuple[str, ...]
    begins: dt.datetime
    ends: dt.datetime

    @classmethod
    def read(cls, files: TlsFiles) -> "Identity":
        """Return what is in the files.

        Raises:
            FailedPreconditionError: one is missing, is none of its kind, or they do not belong together.
        """
        chain = read_bounded(files.certificate, _CERTIFICATE)
        key = read_bounded(files.key, _KEY)
        client_ca = read_bounded(files.client_ca, _CLIENT_CA) if files.client_ca else None
        leaf = _certificates_in(chain, _CERTIFICATE, files.certificate)[0]
        _check_key(key, leaf, files)
        if client_ca is not None and files.client_ca is not None:
            _certificates_in(client_ca, _CLIENT_CA, files.client_ca)
        return cls(
            chain,
            key,
            client_ca,
            leaf.public_bytes(Encoding.DER),
            _names_of(leaf),
            leaf.not_valid_before_utc,
            leaf.not_valid_after_utc,
        )

    def is_valid_at(self, now: dt.datetime) -> bool:
        """Tell whether clients would accept it by its dates."""
        return self.begins <= now < self.ends

    def warning_at(self, now: dt.datetime) -> str | None:
        """Return what is wrong with the certificate, or soon will be; None where all is well."""
        if now >= self.ends:
            return f"the certificate expired at {self.ends:%Y-%m-%d %H:%M} UTC: clients refuse it; renew it"
        if now < self.begins:
            return (
                f"the certificate is valid from {self.begins:%Y-%m-%d %H:%M} UTC only: is this machine's clock right?"
            )
        days = (self.ends - now).total_seconds() / _DAY_SECONDS
        if days < min(_NEAR_END_DAYS_MAX, (self.ends - self.begins).total_seconds() / _DAY_SECONDS / _NEAR_END_SHARE):
            return f"the certificate expires in {days:.1f} days ({self.ends:%Y-%m-%d %H:%M} UTC); renew it"
        if not self.names:
            return (
                "the certificate names no host (it has no subjectAltName): clients refuse it; have one made that does"
            )
        return None


def _certificates_in(content: bytes, option: str, path: Path) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(content)
    except ValueError as error:
        if b"PRIVATE KEY-----" in content:
            raise FailedPreconditionError(
                f"{option} {path}: holds a private key and no certificate; are {_CERTIFICATE} and {_KEY} swapped?"
            ) from error
        raise FailedPreconditionError(
            f"{option} {path}: holds no certificate in PEM form, or a damaged one; it should begin with "
            "-----BEGIN CERTIFICATE-----."
        ) from error
    return found


def _check_key(content: bytes, leaf: x509.Certificate, files: TlsFiles) -> None:
    """Raise where the key cannot be used, or is not the certificate's."""
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        raise FailedPreconditionError(
            f"{_KEY} {files.key}: is encrypted, and nobody is there to type its password; decrypt it into a file that "
            f"the server alone can read: openssl pkey -in {files.key} -out server.key"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FailedPreconditionError(
            f"{_KEY} {files.key}: holds no private key in PEM form, or a damaged one; it should begin with "
            "-----BEGIN PRIVATE KEY-----."
        ) from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise FailedPreconditionError(f"{_KEY} {files.key}: is neither an RSA nor an EC key; gRPC uses no other kind.")
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*spki) != leaf.public_key().public_bytes(*spki):
        raise FailedPreconditionError(
            f"{_KEY} {files.key}: is not the key of the first certificate in {files.certificate}; give the key that "
            "it was made for, and put the server's own certificate before those of its issuers."
        )


def _names_of(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress)))
