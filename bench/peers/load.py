"""Starts client processes together and adds up what they found; knows nothing of servers."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers.client import Report

__all__ = ["BULK", "CROWD", "LONE", "Load", "run_load", "throughput"]

_CHECKOUT = Path(__file__).resolve().parents[2]
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
    processes = [
        _start([server, address, kind], load, seconds, _PROCESSES_MAX * seed + number)
        for number in range(load.processes)
    ]
    try:
        if any(_line(process) != "ready" for process in processes):
            raise SystemExit(f"a client of {server} did not start; its message stands above")
        for process in processes:
            _go(process)
        lines = [_line(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    if not all(lines):
        raise SystemExit(f"a request to {server} failed; its message stands above")
    report = _sum([Report(**json.loads(line)) for line in lines])
    if not report.answered_ms:
        raise SystemExit(f"{server} answered no {kind} request within {seconds:g} s: give it more with --seconds")
    return report


def throughput(report: Report, cores: int) -> float:
    """Return inputs a second of the processor time that the clients left to the server."""
    return len(report.answered_ms) * report.inputs / (report.seconds - report.cpu_seconds / cores)


def _start(what: Sequence[str], load: Load, seconds: float, seed: int) -> "subprocess.Popen[str]":
    options = {"clients": load.clients // load.processes, "inputs": load.inputs, "seconds": seconds, "seed": seed}
    arguments = [part for name, value in options.items() for part in (f"--{name}", f"{value}")]
    return subprocess.Popen(
        [sys.executable, "-m", "bench.peers.client", *what, *arguments],
        cwd=_CHECKOUT,
        env=os.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _go(process: "subprocess.Popen[str]") -> None:
    if process.stdin is not None:
        process.stdin.write("\n")
        process.stdin.flush()


def _line(process: "subprocess.Popen[str]") -> str:
    return process.stdout.readline().strip() if process.stdout is not None else ""


def _sum(reports: Sequence[Report]) -> Report:
    total = Report(inputs=reports[0].inputs, seconds=reports[0].seconds)
    for report in reports:
        total.answered_ms += report.answered_ms
        total.cpu_seconds += report.cpu_seconds
    return total
