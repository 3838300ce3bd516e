"""Starts client processes together and adds up what they found; knows nothing of what they do."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.client_processes import ClientProcesses
from bench.serving.client import Report

__all__ = ["Load", "Running", "percentile", "ready_load", "running_load", "throughput"]

_LOADS_MAX, _PROCESSES_MAX = 10, 100
_CLIENT = "bench.serving.client"


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
        numbers = range(_PROCESSES_MAX * seed, _PROCESSES_MAX * seed + load.processes)
        self._clients = ClientProcesses([[_CLIENT, address, *load.arguments(number)] for number in numbers])

    def go(self) -> None:
        """Let all begin."""
        self._clients.go()

    def report(self) -> Report:
        """Wait for the end and return what all found together."""
        return _sum([Report(**found) for found in self._clients.reports()])

    def end(self) -> None:
        """Leave no process behind."""
        self._clients.end()


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


def _sum(reports: Sequence[Report]) -> Report:
    total = Report(seconds=max(report.seconds for report in reports))
    for report in reports:
        total.answered_ms += report.answered_ms
        total.refused_ms += report.refused_ms
        total.cpu_seconds += report.cpu_seconds
        for status, count in report.other.items():
            total.other[status] = total.other.get(status, 0) + count
    return total
