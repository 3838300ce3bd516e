"""`clip-search up PHOTOS`: exports a model once, serves it, shows the page and indexes the photos, until stopped.

The steps are the project's own programs, one after the other; each skips what it has done before. Knows nothing of
models, pictures or pages.
"""

import contextlib
import itertools
import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click

from clip_search_photos.checks import check_free, has_files, read_listen
from clip_search_photos.folders import Folders
from clip_search_photos.indexing import forget, index
from clip_search_photos.programs import ProgramError, Service, ask, run
from clip_search_photos.watching import Changes, has_removals, watch

__all__ = ["up"]

_POLL_SECONDS = 0.5
_NOTHING: Changes = frozenset()


@dataclass(frozen=True, slots=True)
class _Wish:
    """What was asked for."""

    photos: tuple[Path, ...]
    model: str
    listen: tuple[str, int]
    open_page: bool
    watch: bool
    prune: bool


@click.command("up")
@click.argument(
    "photos",
    metavar="PHOTOS...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path, resolve_path=True),
)
@click.option(
    "--model",
    default="b32",
    show_default=True,
    help="A name that `clip-search models` lists, another hub id, a local folder, or demo, which needs no network.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:8080",
    show_default=True,
    callback=read_listen,
    help="Where the page is found; port 0 takes a free one.",
)
@click.option("--open/--no-open", "open_page", default=True, help="Open the page in the browser, or do not.")
@click.option("--watch", is_flag=True, help="Go on looking for new, changed, moved and removed photos.")
@click.option("--prune", is_flag=True, help="Forget photos that are gone even where they are more than a fifth.")
def up(
    photos: tuple[Path, ...], *, model: str, listen: tuple[str, int], open_page: bool, watch: bool, prune: bool
) -> None:
    """Search the photos in the folders PHOTOS by describing them: everything in one command.

    The first time it downloads the model, and says before how large it is and under which licence; later it starts at
    once. The photos stay where they are, and nothing is sent anywhere. The page is there while they are still being
    indexed. Photos that are gone from the folders are forgotten, unless they are more than a fifth: a disk may not be
    mounted. Ctrl-C stops everything; run again, it goes on.

    Models are kept in $XDG_CACHE_HOME/clip-search, what is indexed in $XDG_DATA_HOME/clip-search, logs in
    $XDG_STATE_HOME/clip-search.

    \b
        clip-search up ~/Pictures
        clip-search up ~/Pictures --watch
        clip-search up ~/Pictures --model multilingual
    """  # noqa: D301  # click takes \b as: keep these lines as they are
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _up(_Wish(photos, model, listen, open_page, watch, prune))
    except ProgramError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("stopped")
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _up(wish: _Wish) -> None:
    check_free(*wish.listen)
    if not wish.watch and not has_files(wish.photos):
        raise ProgramError(f"there are no files in {_names(wish)}: name the folder that holds your photos")
    hub_id = _hub_id_of(wish.model)
    folders = Folders.of(hub_id)
    _export(hub_id, folders.bundle)
    folders.data.parent.mkdir(parents=True, exist_ok=True)
    click.echo("server: starting; the first time this measures the machine for some seconds")
    with contextlib.ExitStack() as services:
        places = ["--bundle", str(folders.bundle), "--data", str(folders.data)]
        serve = ["serve", *places, "--listen", "127.0.0.1:0", "--thumbnails"]
        server = services.enter_context(Service(serve, folders.logs / "server.log"))
        page = services.enter_context(Service(_gallery(wish, server.address), folders.logs / "page.log"))
        click.echo(f"server: {server.address}, data in {folders.data}")
        click.echo(f"page: {page.address}")
        # Watched before it is read: what changes meanwhile is read again.
        turns = watch(wish.photos) if wish.watch else _turns()
        index(wish.photos, server.address)
        server.check()
        forget(wish.photos, server.address, however_many=wish.prune)
        click.echo(f"ready: search at {page.address}; Ctrl-C stops it")
        _stay(wish, turns, server, page)


def _names(wish: _Wish) -> str:
    return ", ".join(map(str, wish.photos))


def _hub_id_of(model: str) -> str:
    """Give the hub id of a model that is called by a short name, so that what is made of it has one place."""
    known = json.loads(ask("clip-search", ["models", "--json"]))["models"]
    return next((str(entry["hub_id"]) for entry in known if entry["name"] == model), model)


def _export(model: str, bundle: Path) -> None:
    """Make the model's bundle, unless it is there: it appears whole or not at all."""
    if (bundle / "manifest.json").is_file():
        click.echo(f"model: {model}, exported before to {bundle}")
        return
    click.echo(f"model: {model}, to be exported to {bundle}")
    bundle.parent.mkdir(parents=True, exist_ok=True)
    code = run("clip-search", ["export", model, str(bundle), "--quiet"])
    if code != 0:  # it has said why
        raise click.exceptions.Exit(code)


def _gallery(wish: _Wish, server: str) -> list[str]:
    host, port = wish.listen
    listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    shown = [option for folder in wish.photos for option in ("--pictures", str(folder))]
    return ["gallery", "--server", server, "--listen", listen, *shown, *(["--open"] if wish.open_page else [])]


def _turns() -> Iterator[Changes]:
    """Give the turns of folders that nobody watches."""
    pause = threading.Event()
    for _ in itertools.count():
        pause.wait(_POLL_SECONDS)
        yield _NOTHING


def _stay(wish: _Wish, turns: Iterator[Changes], server: Service, page: Service) -> None:
    """Follow the changes until one of the programs ends, or this one is interrupted."""
    for changes in turns:
        server.check()
        page.check()
        if not changes:
            continue
        index(wish.photos, server.address)
        if has_removals(changes):
            forget(wish.photos, server.address, however_many=wish.prune)
