"""`clip-search gallery`: options in, a page to search with out; knows nothing of how it answers."""

import signal
import socket
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import uvicorn

from clip_search.cli.output import CommandError, print_note
from clip_search.cli.session import connect
from clip_search.cli.settings import Settings as ClientSettings
from clip_search.cli.settings import pass_settings, read_address
from clip_search.cli.standalone import StandaloneCommand
from clip_search_gallery.access import is_loopback
from clip_search_gallery.app import Settings, create_app
from clip_search_gallery.pictures import PictureFolders

__all__ = ["gallery"]

_LISTEN = "127.0.0.1:8080"
_CONNECTIONS_MAX = 512
_DRAIN_SECONDS = 3


def _read_address(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, int]:
    host, port = read_address(value, port_min=0, example=_LISTEN)
    return host.strip("[]"), port


@click.command("gallery", cls=StandaloneCommand, without=frozenset({"json"}))
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default=_LISTEN,
    show_default=True,
    callback=_read_address,
    help="Where browsers find the page; port 0 picks a free one.",
)
@click.option(
    "--pictures",
    "folders",
    metavar="DIR",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Show items in full from files in this folder, as their attribute `path` names them. May be repeated.",
)
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
@click.option("--insecure", is_flag=True, help="Allow --listen beyond this machine: whoever reaches it may search.")
@click.option(
    "--host-name",
    "host_names",
    metavar="NAME",
    multiple=True,
    help="Answer also when called by this name; numbers and localhost always work. May be repeated.",
)
@pass_settings
def gallery(
    settings: ClientSettings,
    *,
    listen: tuple[str, int],
    folders: tuple[Path, ...],
    open_page: bool,
    insecure: bool,
    host_names: tuple[str, ...],
) -> None:
    """Show a page to search with, for browsers.

    It asks the server at --server, which may be started later. Thumbnails come from the server (`clip-search serve
    --thumbnails`); what it has none of, and pictures in full, come from the folders given with --pictures. Prints
    `listening on URL` once ready, and stops on Ctrl-C or SIGTERM.
    """
    host, port = listen
    if not (insecure or is_loopback(host)):
        raise click.UsageError(
            f"--listen {host} can be reached from other machines, and the page asks nobody for a password: "
            "add --insecure if that is meant"
        )
    shown = PictureFolders(folders)
    app = create_app(Settings(lambda: connect(settings), settings.collection, shown, host_names))
    with _bind(host, port) as listener:
        address = _url(host, listener.getsockname()[1])
        _run(uvicorn.Config(app, **_SERVER_SETTINGS), [listener], address, open_page=open_page)


_SERVER_SETTINGS: dict[str, Any] = {
    "access_log": False,
    "lifespan": "on",
    "limit_concurrency": _CONNECTIONS_MAX,
    "log_level": "warning",
    "proxy_headers": False,
    "server_header": False,
    "timeout_graceful_shutdown": _DRAIN_SECONDS,
    "timeout_keep_alive": 60,
    "ws": "none",
}


class _Server(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config, address: str, *, open_page: bool) -> None:
        super().__init__(config)
        self._address = address
        self._open_page = open_page

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell the address."""
        await super().startup(sockets)
        if not self.started:
            return
        click.echo(f"listening on {self._address}")
        if self._open_page and not webbrowser.open(self._address):
            print_note("no browser could be started: open the address above yourself")


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where TCP is named; with it, each answer's body waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        hint = "; --listen HOST:0 takes a free port" if port else ""
        raise CommandError(f"cannot listen on {host}:{port}: {error.strerror or error}{hint}", code="LISTEN") from error
    return listener


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}/"


def _run(config: uvicorn.Config, listeners: Sequence[socket.socket], address: str, *, open_page: bool) -> None:
    """Serve until asked to stop."""
    # The library raises each signal once more after it has shut down in order; that is how the program should end.
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _Server(config, address, open_page=open_page).run(sockets=list(listeners))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
