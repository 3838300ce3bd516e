"""Starts client processes together and adds up what they found; knows nothing of what they do."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.serving.client import Report

__all__ = ["Load", "Running", "percentile", "ready_load", "running_load", "throughput"]

_LOADS_MAX, _PROCESSES_MAX = 10, 100
_CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Load:
    """What clients do to a server, see `client.py`; `rate` is that of all processes together."""

    kind: str
    seconds: float
    processes: int = 1
    connections: int = 4
    rate: float = 0.0
    one_by_one: bool = False
    deadline: float = 30.0

    def arguments(self, seed: int) -> list[str]:
        """Return the arguments of one process."""
        given = [self.kind, "--seconds", f"{self.seconds}", "--connections", f"{self.connections}", "--seed", f"{seed}"]
        given += ["--rate", f"{self.rate / self.processes}", "--deadline", f"{self.deadline}"]
        return [*given, *(["--one-by-one"] if self.one_by_one else [])]


class Running:
    """Client processes that have connected and wait for the word, or run."""

    def __init__(self, address: str, load: Load, seed: int) -> None:
        command = [sys.executable, "-m", "bench.serving.client", address]
        self._processes = [
            subprocess.Popen(
                [*command, *load.arguments(_PROCESSES_MAX * seed + number)],
                cwd=_CHECKOUT,
                env=os.environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(load.processes)
        ]
        for process in self._processes:
            if _line(process) != "ready":
                raise RuntimeError("a client did not start; its message stands above")

    def go(self) -> None:
        """Let all begin."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.write("\n")
                process.stdin.flush()

    def report(self) -> Report:
        """Wait for the end and return what all found together."""
        return _sum([Report(**json.loads(_line(process))) for process in self._processes])

    def end(self) -> None:
        """Leave no process behind."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.communicate()


@contextlib.contextmanager
def ready_load(address: str, *loads: Load, seed: int = 1) -> Iterator[list[Running]]:
    """Start clients of several kinds, which wait for `go`; they are gone when this ends.

    Clients of another `seed` send other texts, so that no cache has them.
    """
    started: list[Running] = []
    try:
        for number, load in enumerate(loads):
            started.append(Running(address, load, _LOADS_MAX * seed + number))
        yield started
    finally:
        for each in started:
            each.end()


@contextlib.contextmanager
def running_load(address: str, *loads: Load, seed: int = 1) -> Iterator[list[Running]]:
    """As `ready_load`, but all begin at the same moment."""
    with ready_load(address, *loads, seed=seed) as started:
        for each in started:
            each.go()
        yield started


def throughput(report: Report, cores: int) -> float:
    """Return answers a second of the processor time that the clients left to the server."""
    return len(report.answered_ms) / (report.seconds - report.cpu_seconds / cores)


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile, rounded for reports; 0 of nothing."""
    return round(float(np.percentile(values, share)), 2) if len(values) else 0.0


def _line(process: "subprocess.Popen[str]") -> str:
    return process.stdout.readline().strip() if process.stdout is not None else ""


def _sum(reports: Sequence[Report]) -> Report:
    total = Report(seconds=max(report.seconds for report in reports))
    for report in reports:
        total.answered_ms += report.answered_ms
        total.refused_ms += report.refused_ms
        total.cpu_seconds += report.cpu_seconds
        for status, count in report.other.items():
            total.other[status] = total.other.get(status, 0) + count
    return total
