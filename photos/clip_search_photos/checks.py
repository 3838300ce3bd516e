"""What can be known before anything is downloaded: whether the page has a place, and whether there are files at all.

Knows nothing of which files are pictures.
"""

import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import click

__all__ = ["check_free", "has_files", "read_listen"]

_EXAMPLE = "127.0.0.1:8080"
_PORT_MAX = 65_535


def read_listen(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, int]:
    """Read HOST:PORT, a place that this machine alone can reach.

    Raises:
        click.BadParameter: it is none.
    """
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > _PORT_MAX:
        raise click.BadParameter(f"{value!r} is not HOST:PORT, such as {_EXAMPLE}")
    if not _is_loopback(host):
        raise click.BadParameter(
            f"{host} is not this machine alone: take {_EXAMPLE}. What shows the page to others is "
            "`clip-search gallery --insecure`, beside this"
        )
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_free(host: str, port: int) -> None:
    """Refuse a place that another program listens at.

    Raises:
        click.ClickException: it is taken, or cannot be listened at; the message says what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise click.ClickException(
                f"the page cannot be at {host}:{port} ({error.strerror or error}): if `clip-search up` runs already, "
                "its page is there; otherwise --listen 127.0.0.1:0 takes a free port"
            ) from error


def has_files(folders: Sequence[Path]) -> bool:
    """Tell whether there is anything in the folders that could be a picture: hidden names are none."""
    return any(not name.startswith(".") for folder in folders for _, _, names in os.walk(folder) for name in names)
