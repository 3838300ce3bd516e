"""Files that an operator writes and renews while the server runs; knows nothing of what is in them.

Changes are told by content, because renewals replace files, links to files or whole folders of links. A file that is
just being written looks half done, so new content counts once it was the same at two looks.
"""

import hashlib
import stat
from collections.abc import Sequence
from pathlib import Path

from clip_search_server.errors import FailedPreconditionError

__all__ = ["LOOK_INTERVAL_SECONDS", "WatchedFiles", "read_bounded", "who_else_may"]

#: How often watched files are looked at: what changed is seen within two of these.
LOOK_INTERVAL_SECONDS = 0.25

_BYTES_MAX = 2**20


def read_bounded(path: Path, option: str) -> bytes:
    """Return the content of a small file that `option` names.

    Raises:
        FailedPreconditionError: it cannot be read, or is larger than a megabyte.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise FailedPreconditionError(f"{option} {path}: cannot be read ({error.strerror}).") from error
    if len(content) > _BYTES_MAX:
        raise FailedPreconditionError(f"{option} {path}: has more than {_BYTES_MAX:,} bytes; is this the right file?")
    return content


def who_else_may(path: Path, *, read: bool) -> str | None:
    """Return what strangers may do with a file, as a warning; None where all is well.

    Args:
        path: the file.
        read: whether reading it is already too much, as of a private key.
    """
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH:
        return f"{path}: everybody on this machine can write it; chmod o-w it"
    if read and mode & stat.S_IROTH:
        return f"{path}: everybody on this machine can read it; chmod 600 it, or 640 with a group of the server's own"
    return None


class WatchedFiles:
    """Tells when the contents of some files have changed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._taken = self._seen = self._look()

    def have_changed(self) -> bool:
        """Look once; True when contents were the same at the last two looks and differ from those told before."""
        now = self._look()
        settled = now == self._seen
        self._seen = now
        if not settled or now == self._taken:
            return False
        self._taken = now
        return True

    def _look(self) -> tuple[bytes, ...]:
        return tuple(_digest(path) for path in self._paths)


def _digest(path: Path) -> bytes:
    """Return what tells one content from another, ``b""`` for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(_BYTES_MAX + 1)).digest()
    except OSError:
        return b""
