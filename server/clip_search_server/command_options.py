"""Reads options of `clip-search serve` that are more than a word: bundles, sizes, addresses, files; does not serve."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import click

from clip_search_server.access.certificates import TlsFiles

__all__ = ["check_tracing", "read_bundles", "read_size", "read_trace_endpoint", "tls_files"]

_DEFAULT_NAME = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME_RULE = "1 to 64 of a-z, A-Z, 0-9, dot, _ and -, the first a letter or a digit"

_SIZE = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?) ?(?P<unit>([KMGT]i?)?B?)", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def read_bundles(_ctx: click.Context, _param: click.Parameter, values: Sequence[str]) -> dict[str, Path]:
    """Return the folders of `NAME=PATH` by name, the first being the default model's; a lone `PATH` is `default`.

    A path that holds `=` is told from a name by a slash in front of that: `./a=b`.

    Raises:
        click.BadParameter: a name breaks the rule, of several bundles one has no name, or two have the same.
    """
    bundles: dict[str, Path] = {}
    for value in values:
        name, path = _name_and_path(value)
        if name is None and len(values) > 1:
            raise click.BadParameter(f"{value}: of several bundles each needs a name, as in NAME={value}")
        name = name or _DEFAULT_NAME
        if name in bundles:
            raise click.BadParameter(f"{value}: {name} is the name of {bundles[name]} already; take another")
        bundles[name] = path
    return bundles


def _name_and_path(value: str) -> tuple[str | None, Path]:
    name, separator, path = value.partition("=")
    if not separator or "/" in name:
        return None, Path(value)
    if not _NAME.fullmatch(name):
        raise click.BadParameter(f"{value}: a model's name has {_NAME_RULE}; of a path that holds = write ./{value}")
    if not path:
        raise click.BadParameter(f"{value}: behind the = there is no folder of a bundle")
    return name, Path(path)


def read_size(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    """Return the bytes of `10GB` (10,000,000,000), `10GiB` (10 times 1,024 to the third) or `5000000`.

    Raises:
        click.BadParameter: it is none of these.
    """
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is no size, such as 10GB, 500MiB or 5000000")
    unit = match["unit"].lower().removesuffix("b")
    base = 1024 if unit.endswith("i") else 1000
    return int(float(match["number"]) * base ** _POWERS[unit.removesuffix("i")])


def read_trace_endpoint(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Return the URL of a collector.

    Raises:
        click.BadParameter: it is none, or has a secret in it, which logs and `--print-config` would show.
    """
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise click.BadParameter("is no URL of a collector, such as http://localhost:4318")
    if parts.username is not None or parts.query or parts.fragment:
        raise click.BadParameter(
            "only scheme, host, port and path are taken; give keys as headers, in OTEL_EXPORTER_OTLP_HEADERS"
        )
    return value


def check_tracing(endpoint: str | None) -> None:
    """Raise click.UsageError where traces are wanted and what sends them is not installed."""
    wanted = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
    if endpoint is not None and not all(_is_installed(name) for name in wanted):
        raise click.UsageError("--trace-endpoint needs the [tracing] extra: pip install 'clip-search[tracing]'")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False


def tls_files(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """Return where the files of TLS are, None where none are given.

    Raises:
        click.UsageError: one is given without another that it needs.
    """
    if certificate is not None and key is not None:
        return TlsFiles(certificate, key, client_ca)
    if certificate is not None:
        raise click.UsageError("--tls-certificate needs --tls-key, the file of its private key.")
    if key is not None:
        raise click.UsageError("--tls-key needs --tls-certificate, the file of the certificate that it belongs to.")
    if client_ca is not None:
        raise click.UsageError("--tls-client-ca needs --tls-certificate and --tls-key: clients are asked within TLS.")
    return None
