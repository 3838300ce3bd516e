"""Files that exist whole or not at all: temporary name, sync, rename, sync of the folder; knows nothing of contents.

The order is what makes a published name trustworthy after a power cut: the bytes reach the disk before the name does,
and the name reaches the disk before anyone is told.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"

# A folder above ours may be closed to us, or on a file system that syncs no folders; then nothing of ours is in it.
_NOT_OURS_TO_SYNC = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EROFS}


def publish_file(path: Path, write: Callable[[Path], None]) -> None:
    """Make `path` appear with what `write` puts into a temporary neighbour, durably, replacing any file of that name.

    Raises:
        OSError: the disk refused. `path` is then as it was before, or whole where only the sync of its name failed.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        write(temporary)
        sync_file(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def publish_folder(temporary: Path, path: Path) -> None:
    """Give a folder whose files are synced its name, durably.

    Raises:
        OSError: the disk refused; the folder still has its temporary name.
    """
    temporary.rename(path)
    try:
        sync_folder(path.parent)
    except OSError:
        path.rename(temporary)
        raise


def make_folder(path: Path) -> None:
    """Create `path` with its missing parents, durably; what is there is made durable as well.

    Whoever made it may have died before its name reached the disk, and only the kernel's memory may know of it.
    """
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    try:
        sync_folder(path.parent)
    except OSError as error:
        if error.errno not in _NOT_OURS_TO_SYNC:
            raise
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_file(path: Path) -> None:
    """Force a file's bytes and size to the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Force a folder's names to the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_tree(folder: Path) -> None:
    """Force every file and name below a folder to the disk."""
    for parent, _folders, names in os.walk(folder):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in small pieces and without the interpreter's lock."""
    with path.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_temporaries(folder: Path) -> None:
    """Remove what an interrupted `publish_file` left behind."""
    for path in folder.glob("*" + TEMPORARY_SUFFIX):
        path.unlink(missing_ok=True)


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below `folder`; one that vanishes meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total
