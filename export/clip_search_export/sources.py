"""Finds the checkpoint that a person names: demo model, local folder or hub id; knows nothing of what is in it."""

from dataclasses import dataclass
from pathlib import Path

from clip_search_export.errors import SourceError
from clip_search_export.files.torch_files import TORCH_SUFFIXES, open_torch_file
from clip_search_export.files.weight_files import Layout
from clip_search_export.hub import HUB_ID, download_checkpoint
from clip_search_export.hub_cache import Progress
from clip_search_export.licence import read_licence
from clip_search_export.models import DEFAULT, hub_id_of

__all__ = ["DEMOS", "LocalCheckpoint", "locate"]

_CHECKOUT = Path(__file__).resolve().parents[2]
DEMOS = {"demo": _CHECKOUT / "demo" / "weights", "demo-vit": _CHECKOUT / "demo" / "weights-vit"}
"""The models that come with a source checkout, by name; they differ in their image tower."""


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint's files on this machine."""

    source: str
    revision: str | None
    folder: Path
    licence: str | None


def locate(
    source: str,
    revision: str | None,
    progress: Progress = lambda _step: None,
    layout: Layout | None = None,
) -> LocalCheckpoint:
    """Bring the checkpoint named `source` onto this machine.

    Args:
        source: `demo`, `demo-vit`, the short name of a known model, a local folder or a hub id.
        revision: a branch, tag or commit of the hub repository; None is its main branch.
        progress: is told each large file as its download starts.
        layout: the one whose weights are downloaded; None takes the preferred of those that are there.

    Raises:
        SourceError: it is nothing that exists, or it cannot be fetched; the message says what to do.
        CheckpointError: it is a single file in a format that is not read; the message says what to use instead.
    """
    if source in DEMOS:
        return _locate_demo(source)
    source = hub_id_of(source)
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        if revision is not None:
            raise SourceError(f"{source} is a local folder and has no revisions: leave --revision out.")
        return LocalCheckpoint(folder.resolve().name, None, folder, read_licence(folder))
    if source and folder.is_file():
        if folder.suffix in TORCH_SUFFIXES:
            open_torch_file(folder)
        raise SourceError(f"{source} is a file: give the folder that holds it together with its configuration.")
    if HUB_ID.fullmatch(source):
        download = download_checkpoint(source, revision, progress, layout)
        return LocalCheckpoint(source, download.revision, download.folder, read_licence(download.folder))
    raise SourceError(
        f"{source} is neither a folder nor a hub id (owner/name) nor one of {', '.join(DEMOS)}, nor a name that "
        "`clip-search models` lists."
    )


def _locate_demo(name: str) -> LocalCheckpoint:
    folder = DEMOS[name]
    if not folder.is_dir():
        raise SourceError(
            f"the demo model is not at {folder}: it comes with a source checkout of clip-search, installed in editable "
            f"mode. Export another model: clip-search export {DEFAULT.name} OUT."
        )
    return LocalCheckpoint(name, None, folder, read_licence(folder))
