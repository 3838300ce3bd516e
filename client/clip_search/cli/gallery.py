"""Shows hits as a page: fetches their pictures, writes the file, opens the browser.

A hit's picture is the thumbnail stored with it; else the file that its attribute `path` names, if that is a picture of
this machine, small enough to put into a page and of a kind that browsers show; else a placeholder.
"""

import os
import stat
import tempfile
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path

from clip_search.cli.output import CommandError, print_note
from clip_search.client import Client
from clip_search.errors import UnimplementedError
from clip_search.page import PictureHit, render_page, results_section
from clip_search.pictures import BROWSER_MEDIA_TYPES, media_type_of
from clip_search.results import Hit

__all__ = ["show"]

_FILE_BYTES_MAX = 4 * 1024 * 1024

# Of all pictures of a page together: browsers get slow beyond it.
_PAGE_BYTES_MAX = 96 * 1024 * 1024


def show(client: Client, query: str, hits: Sequence[Hit], *, file: Path | None, open_page: bool) -> None:
    """Write a page of hits to `file`, or to a new temporary one, and open it in the browser if asked to.

    Raises:
        CommandError: the file cannot be written.
        ClipSearchError: the thumbnails could not be read.
    """
    page = render_page(
        title="Search results",
        introduction=f"The {len(hits)} nearest pictures on {client.server}, best first. The number under a picture is "
        "its score: the cosine between picture and query. A good match of a text scores about 0.3.",
        sections=[results_section(query, list(_pictures(client, hits)))],
    )
    written = _write(page, file)
    print_note(f"wrote {written}")
    if open_page and not webbrowser.open(written.resolve().as_uri()):
        print_note("no browser could be started: open the file above yourself")


def _write(page: str, file: Path | None) -> Path:
    try:
        if file is None:  # kept: the browser reads it after this program has ended
            handle, name = tempfile.mkstemp(prefix="search_client-", suffix=".html")
            os.close(handle)
            file = Path(name)
        file.write_text(page, "utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror or error}", code="FILE", path=str(file)) from error
    return file


def _pictures(client: Client, hits: Sequence[Hit]) -> Iterator[PictureHit]:
    left_bytes = _PAGE_BYTES_MAX
    for hit, thumbnail in zip(hits, _thumbnails(client, hits), strict=True):
        picture = thumbnail if thumbnail is not None else _picture_of_file(hit.attributes.get("path"))
        media_type = media_type_of(picture) if picture else None
        if picture is None or media_type not in BROWSER_MEDIA_TYPES or len(picture) > left_bytes:
            yield PictureHit(hit.id, hit.score, _caption(hit), None, "")
            continue
        left_bytes -= len(picture)
        yield PictureHit(hit.id, hit.score, _caption(hit), picture, str(media_type))


def _thumbnails(client: Client, hits: Sequence[Hit]) -> list[bytes | None]:
    """Give each hit's thumbnail, or None."""
    if not hits:
        return []
    try:
        return [thumbnail.data or None for thumbnail in client.thumbnails(hit.id for hit in hits)]
    except UnimplementedError:
        return [None] * len(hits)


def _picture_of_file(path: object) -> bytes | None:
    """Read the picture that an attribute names; None for anything that should not be put into a page."""
    if not isinstance(path, str) or not Path(path).is_absolute():
        return None
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _FILE_BYTES_MAX:
            return None
        return Path(path).read_bytes()
    except (OSError, ValueError):  # vanished, not allowed, or no path at all
        return None


def _caption(hit: Hit) -> str:
    """Give the words that go with a hit: its caption or its file's name, if it has either."""
    for name in ("caption", "file_name"):
        value = hit.attributes.get(name)
        if isinstance(value, str) and value:
            return value
    return ""
