"""Makes an output folder appear whole or not at all; knows nothing of what is in it.

Work is done in `.NAME.*.partial` beside the output, which is locked as long as its process lives. A process that is
killed outright cannot remove its folder; the next one to write the same output finds it unlocked and does.
"""

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clip_search_export.disk import is_disk_full
from clip_search_export.errors import PublishError

__all__ = ["check_free", "published_folder"]

_SUFFIX = ".partial"


@contextmanager
def published_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`; rename it to `out` at the end, or remove it if anything goes wrong.

    Raises:
        PublishError: `out` exists and is not an empty folder, or its parent cannot be written.
    """
    check_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=_SUFFIX, dir=out.parent))
        lock = _lock(temporary)
    except OSError as error:
        raise PublishError(f"{out.parent} cannot be written: {error.strerror}.") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        check_free(out)
        os.replace(temporary, out)  # noqa: PTH105 - the same call; pathlib's is documented for files only.
    except OSError as error:
        hint = " Make room, or choose a folder on another disk." if is_disk_full(error) else ""
        raise PublishError(f"{out} cannot be written: {error.strerror}.{hint}") from error
    finally:
        # After the rename there is nothing left under this name; after a failure or Ctrl-C there is.
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(out: Path) -> None:
    """Remove what processes that were killed have left of the same output."""
    for path in out.parent.glob(f".{glob.escape(out.name)}.*{_SUFFIX}"):
        with suppress(OSError):
            lock = _lock(path)
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int:
    """Lock a folder and return the descriptor that holds the lock.

    Raises:
        OSError: another process holds it, or it is no folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_free(out: Path) -> None:
    """Refuse an output that exists, unless it is an empty folder.

    Raises:
        PublishError: it holds something.
    """
    if out.is_dir():
        if any(out.iterdir()):
            raise PublishError(f"{out} already exists and is not empty: choose another folder or remove it first.")
    elif out.exists() or out.is_symlink():
        raise PublishError(f"{out} already exists and is no folder: choose another name.")
