"""Processes that are killed, and the one that bears them; knows nothing of what they do before they die.

A nursery has everything imported and not one thread, so a victim, which it forks, lives within milliseconds. It reads
on stdin one line for each victim, what the victim is to do, its words apart by tabs. Lines on stdout:

    born PID     a victim begins
    ...          what the victim says
    dead PID     the victim is gone
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def say(line: str) -> None:
    """Say a line to whoever watches the victim."""
    # One write of a short line is atomic on a pipe, and nothing is left in a buffer when the process dies.
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def nurse(live: Callable[[list[str]], None]) -> None:
    """Bear a victim for each line on stdin and wait until it is dead; `live`, given the words, is its whole life."""
    for line in sys.stdin:
        words = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            try:
                say(f"born {os.getpid()}")
                live(words)
            finally:
                os._exit(1)
        os.waitpid(pid, 0)
        say(f"dead {pid}")


class Nursery:
    """A nursery, seen from the test."""

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def kill_one(
        self, *words: object, lines: int, delay_seconds: float, before: Callable[[], None] = lambda: None
    ) -> list[str]:
        """Let a victim live, kill it so long after it said so many lines, and return all that it said.

        Args:
            words: what it is to do.
            lines: how many lines to wait for.
            delay_seconds: how long to wait afterwards.
            before: what to do at that moment, before the victim is killed; it may die of it.
        """
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        pid = int(self._line().removeprefix("born "))
        said = [self._line() for _ in range(lines)]
        time.sleep(delay_seconds)  # The moment is random on purpose.
        before()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        while (line := self._line()) != f"dead {pid}":
            said.append(line)
        return said

    def close(self) -> None:
        """End the nursery."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(60) == 0

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery died"
        return line.rstrip("\n")


@contextlib.contextmanager
def open_nursery(module: str) -> Iterator[Nursery]:
    """Start the nursery that a module is, and end it."""
    nursery = Nursery(module)
    try:
        yield nursery
    finally:
        nursery.close()
