"""`search_client index`: streams the pictures of folders to the server.

Two passes over the folders: one counts, for the progress bar, one sends. Nothing is kept of a picture once it is
answered, so that memory is bounded whatever the number of pictures.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.progress import (
    ProgressColumn,
    Task,
)
from rich.text import Text

from clip_search.cli.output import CommandError, print_document, print_note, report_error, safe_text
from clip_search.cli.progress import ProgressDisplay
from clip_search.cli.session import connect
from clip_search.cli.settings import Settings, client_command, pass_settings
from clip_search.cli.tables import human_bytes
from clip_search.client import Client
from clip_search.contents import Image, Item
from clip_search.defaults import DEFAULT_RESUME_SECONDS
from clip_search.errors import ClipSearchError
from clip_search.pictures import picture_bytes_max
from clip_search.results import ItemOutcome
from clip_search.walk import FoundPicture, Source, SourceConflictError, UnusablePath, sources_of, walk

__all__ = ["index"]


@client_command("index")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--resume-seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=DEFAULT_RESUME_SECONDS,
    show_default=f"{DEFAULT_RESUME_SECONDS:g}",
    help="How long to try to go on after the connection broke; 0 for not at all.",
)
@pass_settings
def index(settings: Settings, *, paths: tuple[Path, ...], resume_seconds: float) -> None:
    """Store pictures, so that they can be found.

    A PATH is a picture or a folder, which is searched with everything below it for JPEG, PNG, WebP, GIF, BMP, TIFF,
    AVIF and HEIC files by their names' endings. Names that begin with a dot and links to folders are passed over.

    A picture's id is the name of its folder given here and its path below it: `index ~/photos` stores
    ~/photos/2024/beach.jpg as photos/2024/beach.jpg. So indexing again replaces and never adds twice. The attributes
    `path` (absolute) and `file_name` are stored with it; the picture itself is not, unless the server keeps pictures.

    Where the connection breaks, it goes on once the server is back, with what was not answered.

    A picture that cannot be read is reported and passed over. Exits with 0 when every picture is stored, else with 1.
    """
    try:
        sources = sources_of(paths)
    except SourceConflictError as error:
        raise click.UsageError(str(error)) from error
    with connect(settings, resume_seconds=resume_seconds) as client:
        limits = client.server_info().limits  # asked first: should the server be away, one knows at once
        total = sum(1 for _ in walk(sources))
        if not total:
            raise CommandError(f"no pictures in {', '.join(map(str, paths))}", code="FILE")
        with _Display(total, as_json=settings.json) as display:
            run = _Run(client, sources, picture_bytes_max(limits), display)
            obstacle = run.complete()
    if settings.json:
        print_document(run.document(complete=obstacle is None))
    else:
        click.echo(run.summary())
    if obstacle is not None:
        if not settings.json:
            print_note(
                f"What is counted here is safely stored; {run.unanswered} more may be. "
                "Run the same command again to go on: no picture is stored twice."
            )
        raise obstacle
    if run.failed:
        raise CommandError(f"{_pictures(run.failed)} could not be stored", code="INCOMPLETE")


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count:,} pictures"


class _Run:
    """One run over the sources: sends what they hold and keeps the tally.

    Pictures are read in gRPC's thread and outcomes in the caller's, so that both count under a lock.
    """

    def __init__(
        self, client: Client, sources: tuple[Source, ...], picture_bytes_max: int, display: "_Display"
    ) -> None:
        self.stored = 0
        self.replaced = 0
        self.failed = 0
        self.unanswered = 0
        self.elapsed_seconds = 0.0
        self._client = client
        self._sources = sources
        self._picture_bytes_max = picture_bytes_max
        self._display = display
        self._lock = threading.Lock()
        self._sent: dict[int, Path] = {}  # by position in the stream; as many as are in flight

    def complete(self) -> ClipSearchError | CommandError | None:
        """Send everything; give what stopped it, if anything did."""
        start_time = time.monotonic()
        try:
            with self._client.ingest(self._items()) as outcomes:
                for outcome in outcomes:
                    self._record(outcome)
        except ClipSearchError as error:
            return error
        except KeyboardInterrupt:
            return CommandError("interrupted", code="INTERRUPTED")
        finally:
            self.unanswered = outcomes.in_flight
            self.elapsed_seconds = time.monotonic() - start_time
        return None

    def _items(self) -> Iterator[Item]:
        """Read one picture after the other."""
        position = 0
        for found in walk(self._sources):
            picture = self._read(found) if isinstance(found, FoundPicture) else found
            if isinstance(picture, UnusablePath):
                self._fail(picture.path, picture.reason, code="FILE")
                continue
            self._sent[position] = picture.path
            position += 1
            yield picture.item

    def _read(self, found: FoundPicture) -> "_ReadPicture | UnusablePath":
        size_bytes = found.size_bytes
        try:
            data = found.path.read_bytes() if size_bytes <= self._picture_bytes_max else b""
        except OSError as error:
            return UnusablePath(found.path, error.strerror or str(error))
        size_bytes = max(size_bytes, len(data))
        if size_bytes > self._picture_bytes_max:
            bounds = f"{human_bytes(size_bytes)}; the server takes at most {human_bytes(self._picture_bytes_max)}"
            return UnusablePath(found.path, f"the file is too large: {bounds}")
        attributes = {"path": str(found.path), "file_name": found.path.name}
        return _ReadPicture(found.path, Item(found.id, Image(data), attributes))

    def _record(self, outcome: ItemOutcome) -> None:
        path = self._sent.pop(outcome.index)
        if outcome.error is not None:
            self._fail(path, str(outcome.error), code=outcome.error.code)
            return
        with self._lock:
            self.stored += 1
            self.replaced += outcome.replaced
            self._display.advance(self.failed)

    def _fail(self, path: Path, reason: str, *, code: str) -> None:
        with self._lock:
            self.failed += 1
            self._display.report_failure(path, reason, code=code)
            self._display.advance(self.failed)

    def document(self, *, complete: bool) -> dict[str, Any]:
        """Give the tally as JSON."""
        return {
            "stored": self.stored,
            "replaced": self.replaced,
            "failed": self.failed,
            "unanswered": self.unanswered,
            "complete": complete,
            "elapsed_seconds": round(self.elapsed_seconds, 3),
        }

    def summary(self) -> str:
        """Give the tally in words."""
        replaced = f" ({self.replaced:,} replaced)" if self.replaced else ""
        failed = f", {self.failed:,} failed" if self.failed else ""
        rate = self.stored / max(self.elapsed_seconds, 1e-9)
        return f"{_pictures(self.stored)} stored{replaced}{failed} in {self.elapsed_seconds:.1f} s ({rate:,.0f}/s)"


@dataclass(frozen=True, slots=True)
class _ReadPicture:
    """A picture that is ready to be sent."""

    path: Path
    item: Item


class _RateColumn(ProgressColumn):
    """Pictures a second."""

    def render(self, task: Task) -> Text:
        """Give the rate of late."""
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="dim")


class _Display(ProgressDisplay):
    """The bar of a run, and its failures everywhere."""

    def __init__(self, total: int, *, as_json: bool) -> None:
        super().__init__("indexing", total, as_json=as_json, columns=(_RateColumn(),))

    def advance(self, failed: int) -> None:
        """Count one more picture as done with."""
        self._progress.update(self._task, advance=1, failures=f"{failed:,} failed" if failed else "")

    def report_failure(self, path: Path, reason: str, *, code: str) -> None:
        """Say which picture failed and why."""
        if self._as_json:
            report_error(reason, as_json=True, code=code, path=safe_text(str(path)))
        else:
            self._note(f"failed: {path}: {reason}")
