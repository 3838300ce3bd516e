"""`clip-search up PHOTOS`: exports a model once, serves it, shows the page and indexes the photos, until stopped.

The steps are the project's own programs, one after the other; each skips what it has done before. Knows nothing of
models, pictures or pages.
"""

import contextlib
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click
import watchfiles

from clip_search_photos.folders import Folders
from clip_search_photos.programs import ProgramError, Service, run

__all__ = ["up"]

_MODEL = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
_LISTEN = "127.0.0.1:8080"
_POLL_SECONDS = 0.5
#: Changes are waited for until the folder has been quiet for so long: a camera's card is copied file by file.
_QUIET_MS = 2_000


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
    default=_MODEL,
    show_default=True,
    help="What `clip-search export` takes: a hub id, a local folder, or demo, which needs no network.",
)
@click.option("--listen", metavar="HOST:PORT", default=_LISTEN, show_default=True, help="Where the page is found.")
@click.option("--open/--no-open", "open_page", default=True, help="Open the page in the browser, or do not.")
@click.option("--watch", is_flag=True, help="Go on looking for new and changed photos.")
def up(photos: tuple[Path, ...], *, model: str, listen: str, open_page: bool, watch: bool) -> None:
    """Search the photos in the folders PHOTOS by describing them: everything in one command.

    The first time it downloads the model, and says before how large it is and under which licence; later it starts at
    once. The photos stay where they are, and nothing is sent anywhere. The page is there while they are still being
    indexed. Ctrl-C stops everything; run again, it goes on.

    \b
        clip-search up ~/Pictures
        clip-search up ~/Pictures --watch
    """  # noqa: D301  # click takes \b as: keep these lines as they are
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _up(photos, Folders.of(model), model, listen=listen, open_page=open_page, watch=watch)
    except ProgramError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("stopped")
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _up(photos: Sequence[Path], folders: Folders, model: str, *, listen: str, open_page: bool, watch: bool) -> None:
    _export(model, folders.bundle)
    folders.data.parent.mkdir(parents=True, exist_ok=True)
    places = ["--bundle", str(folders.bundle), "--data", str(folders.data)]
    click.echo("server: starting; the first time this measures the machine for some seconds")
    with contextlib.ExitStack() as services:
        serve = ["serve", *places, "--listen", "127.0.0.1:0", "--thumbnails"]
        server = services.enter_context(Service(serve, folders.logs / "server.log"))
        shown = [option for folder in photos for option in ("--pictures", str(folder))]
        gallery = ["gallery", "--server", server.address, "--listen", listen, *shown]
        if open_page:
            gallery.append("--open")
        page = services.enter_context(Service(gallery, folders.logs / "page.log"))
        click.echo(f"server: {server.address}, data in {folders.data}")
        click.echo(f"page: {page.address}")
        _index(photos, server.address)
        click.echo(f"ready: search at {page.address}; Ctrl-C stops it")
        _stay(photos, server, page, watch=watch)


def _export(model: str, bundle: Path) -> None:
    """Make the model's bundle, unless it is there: it appears whole or not at all."""
    if (bundle / "manifest.json").is_file():
        click.echo(f"model: {model}, exported before to {bundle}")
        return
    click.echo(f"model: {model}, to be exported to {bundle}")
    bundle.parent.mkdir(parents=True, exist_ok=True)
    code = run("clip-search", ["export", model, str(bundle)])
    if code != 0:
        raise ProgramError(f"the model could not be exported, exit code {code}; the reason stands above")


def _index(photos: Sequence[Path], address: str) -> None:
    """Index the folders; a photo that cannot be read has been reported, and keeps nobody from searching the others."""
    click.echo(f"photos: {', '.join(map(str, photos))}")
    if run("search_client", ["--server", address, "index", *map(str, photos)]) != 0:
        click.echo("photos: not all could be indexed, as told above", err=True)


def _stay(photos: Sequence[Path], server: Service, page: Service, *, watch: bool) -> None:
    """Wait until one of the programs ends, or this one is interrupted; index what changes if asked to."""
    if not watch:
        pause = threading.Event()
        while not pause.wait(_POLL_SECONDS):
            server.check()
            page.check()
    changes = watchfiles.watch(
        *photos, debounce=_QUIET_MS, rust_timeout=int(1000 * _POLL_SECONDS), yield_on_timeout=True
    )
    for changed in changes:
        server.check()
        page.check()
        if changed:
            _index(photos, server.address)
