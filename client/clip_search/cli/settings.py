"""The options that every command of `search_client` takes, before its name or after it; does nothing with them.

Light, as the help must be quick: it imports neither gRPC nor rich.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from clip_search.defaults import DEFAULT_SERVER, DEFAULT_TIMEOUT_SECONDS

__all__ = [
    "API_KEY_VARIABLE",
    "SERVER_VARIABLE",
    "Settings",
    "SharedOptionsCommand",
    "client_command",
    "pass_settings",
    "read_address",
    "shared_options",
]

SERVER_VARIABLE = "CLIP_SEARCH_SERVER"
API_KEY_VARIABLE = "CLIP_SEARCH_API_KEY"

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5})")
_PORT_MAX = 65_535


@dataclass(slots=True)
class Settings:
    """What the shared options say; filled while the command line is read."""

    server: str = DEFAULT_SERVER
    collection: str = ""
    model: str = ""
    json: bool = False
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    tls: bool = False
    tls_ca: str | None = None
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_server_name: str = ""
    api_key_file: str | None = None
    api_key_without_tls: bool = False


pass_settings = click.make_pass_decorator(Settings)


def read_address(value: str, *, port_min: int, example: str) -> tuple[str, int]:
    """Return the parts of HOST:PORT, IPv6 hosts in brackets; nothing is looked up.

    Args:
        value: what was given.
        port_min: 0 where a port may be left to be chosen, else 1.
        example: of what was expected.

    Raises:
        click.BadParameter: it is something else.
    """
    match = _HOST_PORT.fullmatch(value)
    if match is None or not port_min <= int(match["port"]) <= _PORT_MAX:
        raise click.BadParameter(f"{value!r} is not HOST:PORT, such as {example}")
    return match["host"], int(match["port"])


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:  # noqa: ANN401  # any option's
    """Put what was given into the settings, under the option's name; what was not given changes nothing."""
    if value is not None and value is not False:
        setattr(ctx.ensure_object(Settings), str(param.name), value)


def _remember_server(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        read_address(value, port_min=1, example=DEFAULT_SERVER)
    _remember(ctx, param, value)


def shared_options(*, from_environment: bool = False) -> list[click.Option]:
    """Make the options, afresh for each command.

    Args:
        from_environment: whether values may come from environment variables; for the program alone, whose values the
            options of a command would otherwise undo.
    """

    def option(*names: str, help: str, variable: str | None = None, **more: Any) -> click.Option:  # noqa: A002, ANN401  # click's
        shown = f"  [${variable}]" if variable and "[default" not in help else ""
        envvar = variable if from_environment else None
        more = {"callback": _remember, **more}
        return click.Option(names, envvar=envvar, expose_value=False, help=f"{help}{shown}", **more)

    return [
        option(
            "--server",
            metavar="HOST:PORT",
            variable=SERVER_VARIABLE,
            callback=_remember_server,
            help=f"Address of the server.  [default: ${SERVER_VARIABLE}, then {DEFAULT_SERVER}]",
        ),
        option(
            "--collection",
            metavar="NAME",
            help="Collection, or alias of one, that the command is about.  [default: default]",
        ),
        option(
            "--model",
            metavar="NAME",
            help="Model that embeds, of those `health` shows.  [default: the one of the collection]",
        ),
        option(
            "--json",
            is_flag=True,
            is_eager=True,
            help="Print one JSON document on stdout, and errors as JSON on stderr.",
        ),
        option(
            "--timeout",
            "timeout_seconds",
            metavar="SECONDS",
            type=click.FloatRange(min=0, min_open=True),
            help=f"How long the server may take to answer.  [default: {DEFAULT_TIMEOUT_SECONDS:g}]",
        ),
        *_security_options(option),
    ]


def _security_options(option: Callable[..., click.Option]) -> list[click.Option]:
    def file(*names: str, variable: str, help: str) -> click.Option:  # noqa: A002  # click's word
        return option(*names, metavar="FILE", variable=variable, help=help)

    return [
        option("--tls", is_flag=True, variable="CLIP_SEARCH_TLS", help="Encrypt the connection (so does --tls-ca)."),
        file("--tls-ca", variable="CLIP_SEARCH_TLS_CA", help="Certificates that vouch for the server, PEM."),
        file("--tls-certificate", variable="CLIP_SEARCH_TLS_CERTIFICATE", help="Certificate of this client, PEM."),
        file("--tls-key", variable="CLIP_SEARCH_TLS_KEY", help="Key of that certificate, PEM."),
        option(
            "--tls-server-name",
            metavar="NAME",
            variable="CLIP_SEARCH_TLS_SERVER_NAME",
            help="Whom the server's certificate is made out to, if not the host.",
        ),
        file(
            "--api-key-file",
            variable="CLIP_SEARCH_API_KEY_FILE",
            help=f"File with the API key; a key may also stand in ${API_KEY_VARIABLE}.",
        ),
        option(
            "--api-key-without-tls",
            is_flag=True,
            variable="CLIP_SEARCH_API_KEY_WITHOUT_TLS",
            help="Send the key in plaintext to another machine.",
        ),
    ]


class SharedOptionsCommand(click.Command):
    """A command that takes the shared options too, so that they may also stand after its name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # click.Command's own
        super().__init__(*args, **kwargs)
        self.params += shared_options()


_Function = TypeVar("_Function", bound=Callable[..., Any])


def client_command(name: str) -> Callable[[_Function], click.Command]:
    """Make a function a command of `search_client`."""
    return click.command(name, cls=SharedOptionsCommand)
