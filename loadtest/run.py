"""A short load test: starts the demo's server with its pictures, lets Locust search it, and judges the result.

`python -m loadtest.run` (`make loadtest`) writes `.demo/loadtest/report.html` with `figures.csv` beside it, and exits
with 0 only when requests were made and none failed. It stops by itself, and listens on nothing but a loopback port of
the server it starts. `--host` tests a server that is up already. Knows nothing of what users do (`locustfile.py`).
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from demo.samples import SamplesError
from demo.server_process import ServerProcessError, log_tail
from demo.workspace import (
    CHECKOUT,
    ROOT,
    Workspace,
    WorkspaceError,
    fresh_workspace,
    index_pictures,
    sample_pictures,
    shown,
)

_LOCUSTFILE = CHECKOUT / "loadtest" / "locustfile.py"
#: Beyond the run itself: starting Locust, hanging up, writing the report.
_GRACE_S = 60
_INTERRUPTED = 130


class LoadTestError(Exception):
    """The load test failed; the message says why."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One row of Locust's result: a kind of request, or all together.

    Attributes:
        p50_ms, p99_ms: median and 99th percentile of the time a request took, in milliseconds.
        rate: requests a second.
    """

    name: str
    requests: int
    failures: int
    p50_ms: float
    p99_ms: float
    rate: float


def read_figures(file: Path) -> list[Figures]:
    """Return the rows of the table that the run wrote; the last one is the total.

    Raises:
        LoadTestError: when it holds no total.
    """
    with file.open(newline="", encoding="utf-8") as lines:
        figures = [_figures(row) for row in csv.DictReader(lines)]
    if not figures or figures[-1].name != "Aggregated":
        raise LoadTestError(f"{shown(file)} holds no total: the run was cut short")
    return figures


def _figures(row: Mapping[str, str]) -> Figures:
    def number(column: str) -> float:
        return float(row[column]) if row[column] not in ("", "N/A") else 0.0

    return Figures(
        name=row["Name"],
        requests=int(row["Request Count"]),
        failures=int(row["Failure Count"]),
        p50_ms=number("50%"),
        p99_ms=number("99%"),
        rate=number("Requests/s"),
    )


def run_locust(host: str, folder: Path, *, seconds: int, users: int, locustfile: Path = _LOCUSTFILE) -> list[Figures]:
    """Run Locust headless against `host` and return its figures.

    Args:
        host: HOST:PORT of a server with pictures in it.
        folder: where `report.html`, `figures.csv` and `locust.log` are written.
        seconds: how long users search.
        users: how many search at a time.
        locustfile: what the users do.

    Raises:
        LoadTestError: when a request failed, none was made, or Locust itself failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table, log = folder / "figures.csv", folder / "locust.log"
    table.unlink(missing_ok=True)
    command = [sys.executable, "-m", "locust", "--locustfile", str(locustfile), "--host", host, "--headless"]
    command += ["--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s", "--stop-timeout", "5s"]
    command += ["--html", str(folder / "report.html"), "--figures", str(table), "--only-summary"]
    # `demo` and the generated stubs are imported from the checkout, wherever Locust puts its own folder.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])}
    with log.open("w", encoding="utf-8") as output:
        try:
            code = subprocess.run(
                command,
                cwd=CHECKOUT,
                env=environment,
                stdout=output,
                stderr=output,
                timeout=seconds + _GRACE_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise LoadTestError(f"Locust did not stop by itself\n{log_tail(log)}") from None
    if not table.exists():
        raise LoadTestError(f"Locust failed with exit code {code}\n{log_tail(log)}")
    figures = read_figures(table)
    total = figures[-1]
    if total.requests == 0:
        raise LoadTestError(f"no request was made\n{log_tail(log)}")
    if total.failures:
        raise LoadTestError(f"{total.failures:,} of {total.requests:,} requests failed\n{log_tail(log)}")
    if code != 0:
        raise LoadTestError(f"Locust failed with exit code {code}\n{log_tail(log)}")
    return figures


def _start_and_run(console: Console, workspace: Workspace, *, seconds: int, users: int) -> list[Figures]:
    console.print("Setting up the demo's server.")
    workspace.export_bundle()
    _, pictures = sample_pictures()
    with workspace.start_server() as server:
        index_pictures(server.address, pictures)
        figures = _announce_and_run(console, server.address, workspace.folder, seconds=seconds, users=users)
        server.stop()
    return figures


def _announce_and_run(console: Console, host: str, folder: Path, *, seconds: int, users: int) -> list[Figures]:
    console.print(f"{users} users search {host} for {seconds} s.", highlight=False)
    return run_locust(host, folder, seconds=seconds, users=users)


def _print_figures(console: Console, figures: Sequence[Figures], folder: Path) -> None:
    table = Table("request", "count", "failed", "median", "99 %", "a second")
    for row in figures:
        name = "all" if row.name == "Aggregated" else row.name
        times = (f"{row.p50_ms:.0f} ms", f"{row.p99_ms:.0f} ms", f"{row.rate:.1f}")
        table.add_row(name, f"{row.requests:,}", f"{row.failures:,}", *times)
    console.print(table)
    console.print("Users and server share this machine, so these figures say that it works, not how fast it can be.")
    console.print(f"Charts over time: {shown(folder / 'report.html')}", highlight=False)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load test from the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.run", description="Put a short load on a server.")
    parser.add_argument("--host", help="HOST:PORT of a server that is up (default: starts one with sample pictures)")
    parser.add_argument("--seconds", type=int, default=30, help="how long users search (default: %(default)s)")
    parser.add_argument("--users", type=int, default=4, help="how many search at a time (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.seconds < 1 or options.users < 1:
        parser.error("--seconds and --users must be at least 1")
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console()
    sizes = {"seconds": options.seconds, "users": options.users}
    folder = ROOT / "loadtest"
    try:
        if options.host:
            figures = _announce_and_run(console, options.host, folder, **sizes)
        else:
            with fresh_workspace("loadtest") as workspace:
                figures = _start_and_run(console, workspace, **sizes)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (LoadTestError, SamplesError, ServerProcessError, WorkspaceError) as error:
        console.print(f"\nThe load test failed: {error}", style="red", markup=False, highlight=False)
        return 1
    _print_figures(console, figures, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
