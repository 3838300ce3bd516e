"""A lock that keeps a second server off a collection's folder; knows nothing of what the folder holds."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from clip_search_server.errors import FailedPreconditionError


class FolderLock:
    """An advisory lock on ``FOLDER/lock``, held until `release` or until the process ends.

    The kernel drops it with the process, so a crash leaves nothing to clean up. The file itself stays: removing it
    would let two processes lock two different files of the same name.

    Args:
        folder: what to lock.
        shared: hold it together with others who only read, and leave the file as it is. An exclusive lock writes the
            process's number into it.

    Raises:
        FailedPreconditionError: another process, or another object in this one, holds it.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        path = folder / "lock"
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            holder = _living_process(os.pread(self._descriptor, 32, 0))
            self.release()
            raise FailedPreconditionError(
                f"{folder} is in use by another server (process {holder}); "
                "stop that server or choose another data folder"
            ) from error
        if not shared:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the folder back; harmless when already released."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _living_process(content: bytes) -> str:
    """Return the process number that a lock file holds, or `unknown`: what a crash left there says nothing."""
    number = content.decode("ascii", "replace").strip()
    return number if number.isdecimal() and Path("/proc", number).exists() else "unknown"
