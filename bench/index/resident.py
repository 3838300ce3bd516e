"""What of this process lies in memory: its own, and that of files it maps; Linux only, knows nothing of what it is.

Anonymous memory is the process's alone. Mapped pages of files are the page cache's, shared and clean: the kernel takes
them back when it needs them. Both count as resident.
"""

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Resident", "peak_bytes", "resident"]

_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)$")


@dataclass(frozen=True, slots=True)
class Resident:
    """Resident bytes: anonymous ones, and those of files below a folder."""

    anonymous: int
    mapped: int

    @property
    def total(self) -> int:
        """Both."""
        return self.anonymous + self.mapped


def resident(folder: Path) -> Resident:
    """Return what is resident now, once what was freed has been given back to the kernel."""
    ctypes.CDLL(None).malloc_trim(0)
    anonymous = mapped = 0
    path = ""
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if (found := _MAPPING.match(line)) is not None:
            path = found[1]
        elif line.startswith("Anonymous:"):
            anonymous += _bytes_in(line)
        elif line.startswith("Rss:") and path.startswith(f"{folder.resolve()}/"):
            mapped += _bytes_in(line)
    return Resident(anonymous, mapped)


def peak_bytes() -> int:
    """Return the most that was resident since the process began, mapped files of all kinds included."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(_bytes_in(line) for line in lines if line.startswith("VmHWM:"))


def _bytes_in(line: str) -> int:
    return int(line.split()[1]) * 1024
