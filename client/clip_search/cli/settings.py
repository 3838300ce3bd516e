"""The options that every command of `search_client` takes, before its name or after it; does nothing with them.

Light, as the help must be quick: it imports neither gRPC nor rich.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from clip_search.defaults import DEFAULT_SERVER, DEFAULT_TIMEOUT_SECONDS

__all__ = ["SERVER_VARIABLE", "Settings", "SharedOptionsCommand", "client_command", "pass_settings", "shared_options"]

SERVER_VARIABLE = "CLIP_SEARCH_SERVER"

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5})")
_PORT_MAX = 65_535


@dataclass(slots=True)
class Settings:
    """What the shared options say; filled while the command line is read."""

    server: str = DEFAULT_SERVER
    collection: str = ""
    model: str = ""
    json: bool = False
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS


pass_settings = click.make_pass_decorator(Settings)


def _check_address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Check that a server is named as HOST:PORT, IPv6 hosts in brackets; nothing is looked up."""
    match = _HOST_PORT.fullmatch(value) if value is not None else None
    if value is not None and (match is None or not 0 < int(match["port"]) <= _PORT_MAX):
        raise click.BadParameter(f"{value!r} is not HOST:PORT, such as {DEFAULT_SERVER}", ctx, param)
    return value


def _remember_server(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if _check_address(ctx, param, value) is not None:
        ctx.ensure_object(Settings).server = str(value)


def _remember_collection(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Settings).collection = value


def _remember_model(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Settings).model = value


def _remember_json(ctx: click.Context, _param: click.Parameter, value: bool | None) -> None:  # noqa: FBT001  # click's
    if value:
        ctx.ensure_object(Settings).json = True


def _remember_timeout(ctx: click.Context, _param: click.Parameter, value: float | None) -> None:
    if value is not None:
        ctx.ensure_object(Settings).timeout_seconds = value


def shared_options(*, server_variable: str | None = None) -> list[click.Option]:
    """Make the options, afresh for each command.

    Args:
        server_variable: environment variable that `--server` may come from; for the program alone, whose value the
            option of a command would otherwise undo.
    """
    return [
        click.Option(
            ["--server"],
            metavar="HOST:PORT",
            envvar=server_variable,
            expose_value=False,
            callback=_remember_server,
            help=f"Address of the server.  [default: ${SERVER_VARIABLE}, then {DEFAULT_SERVER}]",
        ),
        click.Option(
            ["--collection"],
            metavar="NAME",
            expose_value=False,
            callback=_remember_collection,
            help="Collection, or alias of one, that the command is about.  [default: default]",
        ),
        click.Option(
            ["--model"],
            metavar="NAME",
            expose_value=False,
            callback=_remember_model,
            help="Model that embeds, of those `health` shows.  [default: the one of the collection]",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_remember_json,
            help="Print one JSON document on stdout, and errors as JSON on stderr.",
        ),
        click.Option(
            ["--timeout"],
            metavar="SECONDS",
            type=click.FloatRange(min=0, min_open=True),
            expose_value=False,
            callback=_remember_timeout,
            help=f"How long the server may take to answer.  [default: {DEFAULT_TIMEOUT_SECONDS:g}]",
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
