"""Starts client processes together and adds up what they found; knows nothing of servers."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.client_processes import ClientProcesses
from bench.peers.client import Report

__all__ = ["BULK", "CROWD", "LONE", "Load", "run_load", "throughput"]

_CLIENT = "bench.peers.client"
_PROCESSES_MAX = 10


@dataclass(frozen=True, slots=True)
class Load:
    """How many clients there are, in how many processes, and how many inputs each of their requests has."""

    processes: int
    clients: int
    inputs: int = 1


LONE = Load(processes=1, clients=1)
CROWD = Load(processes=2, clients=16)
BULK = Load(processes=2, clients=4, inputs=8)
"""Eight inputs a request are the default of clip-as-service's own client."""


def run_load(server: str, address: str, kind: str, load: Load, *, seconds: float, seed: int) -> Report:
    """Load a server for so long; another `seed` sends other inputs.

    Raises:
        SystemExit: a client did not start, a request failed, or none was answered in time.
    """
    numbers = range(_PROCESSES_MAX * seed, _PROCESSES_MAX * seed + load.processes)
    commands = [[_CLIENT, server, address, kind, *_arguments(load, seconds, number)] for number in numbers]
    try:
        clients = ClientProcesses(commands)
        try:
            clients.go()
            report = _sum([Report(**found) for found in clients.reports()])
        finally:
            clients.end()
    except RuntimeError as error:
        raise SystemExit(f"{server}: {error}") from error
    if not report.answered_ms:
        raise SystemExit(f"{server} answered no {kind} request within {seconds:g} s: give it more with --seconds")
    return report


def throughput(report: Report, cores: int) -> float:
    """Return inputs a second of the processor time that the clients left to the server."""
    return report.answered * report.inputs / (report.seconds - report.cpu_seconds / cores)


def _arguments(load: Load, seconds: float, seed: int) -> list[str]:
    options = {"clients": load.clients // load.processes, "inputs": load.inputs, "seconds": seconds, "seed": seed}
    return [part for name, value in options.items() for part in (f"--{name}", f"{value}")]


def _sum(reports: Sequence[Report]) -> Report:
    total = Report(inputs=reports[0].inputs, seconds=reports[0].seconds)
    for report in reports:
        total.add(report)
    return total
