"""How much memory a process holds over time; knows nothing of what it does."""

import re
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["MemoryWatch", "resident_mb"]

_INTERVAL_SECONDS = 0.1


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    if found is None:
        raise RuntimeError(f"process {pid} has no resident memory: it has ended")
    return int(found.group(1)) / 1024


class MemoryWatch:
    """Samples a process's resident memory from a thread, as a context manager."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._samples: list[tuple[float, float]] = []  # (seconds, MB)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = time.monotonic()

    @property
    def most_mb(self) -> float:
        """The largest sample."""
        return max(mb for _, mb in self._samples)

    def mean_mb(self, from_seconds: float, to_seconds: float) -> float:
        """Return the mean of the samples between two times after the start."""
        chosen = [mb for seconds, mb in self._samples if from_seconds <= seconds < to_seconds]
        return sum(chosen) / len(chosen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(_INTERVAL_SECONDS):
            self._samples.append((time.monotonic() - self._started, resident_mb(self._pid)))
