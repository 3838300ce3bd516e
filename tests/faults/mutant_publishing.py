"""Ways to publish a file that leave out or misplace a step; for showing that the suites notice."""

from collections.abc import Callable
from pathlib import Path

from clip_search_server.index import files

__all__ = ["publish_unnamed", "publish_unsynced", "rename_before_sync"]

Write = Callable[[Path], None]


def publish_unsynced(path: Path, write: Write) -> None:
    """Leave out the sync of what was written."""
    _written(path, write).rename(path)
    files.sync_folder(path.parent)


def rename_before_sync(path: Path, write: Write) -> None:
    """Sync what was written only once it has its name."""
    _written(path, write).rename(path)
    files.sync_file(path)
    files.sync_folder(path.parent)


def publish_unnamed(path: Path, write: Write) -> None:
    """Leave out the sync of the name."""
    temporary = _written(path, write)
    files.sync_file(temporary)
    temporary.rename(path)


def _written(path: Path, write: Write) -> Path:
    temporary = path.with_name(path.name + files.TEMPORARY_SUFFIX)
    write(temporary)
    return temporary
