"""Disks mounted for one test: one whose power can be cut, one that can be full. Knows nothing of what is kept on them.

Mounting needs root; where it is not allowed the test is skipped with the reason. Whatever was mounted is unmounted at
the end, also of a test that failed.

`EXT4_IOC_SHUTDOWN` ends a file system at once: with NOLOGFLUSH neither dirty pages nor the journal in memory reach the
device any more, and every later call on it fails. Mounted anew, it holds what was forced to the disk, and whatever the
kernel happened to have written.
"""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_LOOP_MIB = 96
_FILLED_BYTES = 4096
_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
# Long enough that nothing is written unasked while a test runs.
_LOOP_OPTIONS = "loop,commit=600"


class LoopDisk:
    """An ext4 file system in a file; see `loop_disk`."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image = image
        self.folder = folder

    def cut_power(self) -> None:
        """End the file system at once, whoever is using it."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def restart(self) -> None:
        """Mount it anew, as the machine would when the power is back; nobody may use it."""
        _run("umount", str(self.folder))  # The loop device goes with it.
        self.mount()

    def mount(self) -> None:
        """Mount it."""
        _run("mount", "-t", "ext4", "-o", _LOOP_OPTIONS, str(self._image), str(self.folder))


@contextlib.contextmanager
def loop_disk(parent: Path) -> Iterator[LoopDisk]:
    """Make and mount a disk of its own below `parent`, whose power can be cut."""
    _require("mkfs.ext4", "mount", "umount")
    image, folder = parent / "disk.img", parent / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(_LOOP_MIB << 20)
    _run("mkfs.ext4", "-q", "-F", "-b", "4096", str(image))
    disk = LoopDisk(image, folder)
    with _mounted(folder, disk.mount):
        yield disk
    image.unlink()


class SmallDisk:
    """A file system in memory; see `small_disk`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave no room for another byte."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(_FILLED_BYTES)):
                pass

    def make_room(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink()


@contextlib.contextmanager
def small_disk(parent: Path, mib: int) -> Iterator[SmallDisk]:
    """Make and mount a disk of this size below `parent`."""
    _require("mount", "umount")
    folder = parent / "small"
    folder.mkdir()
    with _mounted(folder, lambda: _run("mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder))):
        yield SmallDisk(folder)


def _require(*programs: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    for name in programs:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")


@contextlib.contextmanager
def _mounted(folder: Path, mount: Callable[[], None]) -> Iterator[None]:
    try:
        mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine does not let us mount: {error.stderr.strip()}")
    try:
        yield
    finally:
        if folder.is_mount():
            try:
                _run("umount", str(folder))
            except subprocess.CalledProcessError:  # Somebody still has a file open; the mount goes with that.
                _run("umount", "--lazy", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
