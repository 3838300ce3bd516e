"""The whole picture of an item: its file, if that lies in a folder that may be shown, or what the server keeps of it.

A browser names an item, never a file. Which file that is says the item's attribute `path`, which comes from whoever
writes items; so it is opened only if

- it lies in an allowed folder once every link in it has been followed, and still does when it is open;
- it is a regular file of bounded size, whose first bytes are those of a picture that browsers show.

Knows nothing of HTTP.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clip_search.client import Client
from clip_search.errors import DataLossError, FailedPreconditionError, NotFoundError, UnimplementedError
from clip_search.pictures import BROWSER_MEDIA_TYPES, media_type_of
from clip_search.results import StoredItem

__all__ = ["Picture", "PictureFolders", "browser_type", "kept_picture"]

_ATTRIBUTE = "path"


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture of a kind that browsers show."""

    data: bytes
    media_type: str


def browser_type(data: bytes) -> str | None:
    """Give the media type of a picture that browsers show; None for anything else."""
    media_type = media_type_of(data)
    return media_type if media_type in BROWSER_MEDIA_TYPES else None


class PictureFolders:
    """Folders of this machine whose pictures may be shown.

    Args:
        folders: the folders; links in their own paths are followed once, now.
    """

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self._folders = tuple(folder.resolve(strict=True) for folder in folders)

    def read(self, item: StoredItem, bytes_max: int) -> Picture | None:
        """Read the file of an item; None where it has none that may be shown or is larger than `bytes_max`."""
        path = item.attributes.get(_ATTRIBUTE)
        if not self._folders or not isinstance(path, str) or not path.startswith("/"):
            return None
        try:
            place = Path(path).resolve(strict=True)
            if not self._may_show(place):
                return None
            return self._read(place, bytes_max)
        except (OSError, ValueError, RuntimeError):  # vanished, not allowed, no path at all, links in a circle
            return None

    def _read(self, place: Path, bytes_max: int) -> Picture | None:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:  # noqa: PTH123  # of a descriptor
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > bytes_max:
                return None
            # A folder on the way may have become a link since it was looked at: what counts is what was opened.
            if not self._may_show(Path(f"/proc/self/fd/{descriptor}").readlink()):
                return None
            data = stream.read(bytes_max)
        media_type = browser_type(data)
        return None if media_type is None else Picture(data, media_type)

    def _may_show(self, place: Path) -> bool:
        return any(place.is_relative_to(folder) for folder in self._folders)


def kept_picture(client: Client, item: StoredItem, bytes_max: int) -> Picture | None:
    """Read what the server keeps of an item's picture; None where that is nothing that browsers show."""
    try:
        data = client.image(item.id)
    except (NotFoundError, UnimplementedError, FailedPreconditionError, DataLossError):
        return None
    media_type = browser_type(data)
    return None if media_type is None or len(data) > bytes_max else Picture(data, media_type)
