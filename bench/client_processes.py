"""Client processes that start together and report at their end; knows nothing of what they do.

A client prints `ready` once it has connected, waits for a line on stdin, does its work, and prints a report as one JSON
line (`serving/client.py`, `peers/client.py`).
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["ClientProcesses"]

_CHECKOUT = Path(__file__).resolve().parents[1]


class ClientProcesses:
    """Clients that have connected and wait for the word, or run.

    Args:
        commands: a module and its arguments for each.

    Raises:
        RuntimeError: one did not start; none is left behind.
    """

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=_CHECKOUT,
                env=os.environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for command in commands
        ]
        for process in self._processes:
            if _line(process) != "ready":
                self.end()
                raise RuntimeError("a client did not start; its message stands above")

    def go(self) -> None:
        """Let all begin."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.write("\n")
                process.stdin.flush()

    def reports(self) -> list[dict[str, Any]]:
        """Wait for the end and return what each found.

        Raises:
            RuntimeError: one ended without a report.
        """
        lines = [_line(process) for process in self._processes]
        if not all(lines):
            raise RuntimeError("a client ended without a report; its message stands above")
        return [json.loads(line) for line in lines]

    def end(self) -> None:
        """Leave no process behind."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.communicate()


def _line(process: "subprocess.Popen[str]") -> str:
    return process.stdout.readline().strip() if process.stdout is not None else ""
