"""Starts Locust without its web page, in one process or several, and waits until it has written down what it found.

With several processes one leads and sends nothing itself; the others are its workers, on this machine (it forks them)
or on others. Knows nothing of servers, SLOs and reports.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.server_process import log_tail
from demo.workspace import CHECKOUT
from loadtest.outcome import Outcome, read_outcome
from loadtest.profiles import KINDS
from loadtest.scenario import Scenario

__all__ = ["LoadTestError", "Workers", "run_locust"]

_LOCUSTFILE = CHECKOUT / "loadtest" / "locustfile.py"
#: How long users may take to end what they are at.
_STOP_SECONDS = 10
#: Beyond the run itself: starting Locust, workers that say goodbye, the report.
_GRACE_SECONDS = 60


class LoadTestError(Exception):
    """The load test failed; the message says why."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Who sends the requests.

    Attributes:
        processes: workers on this machine; 0 for one process that leads and sends.
        expected: workers that come from elsewhere.
        bind: HOST:PORT where these are waited for.
        wait_seconds: for how long.
    """

    processes: int = 0
    expected: int = 0
    bind: str = "127.0.0.1:5557"
    wait_seconds: int = 60

    def options(self) -> list[str]:
        """Return what tells Locust."""
        if self.expected:
            host, _, port = self.bind.rpartition(":")
            wait = ["--expect-workers-max-wait", str(self.wait_seconds)]
            expected = ["--master", "--expect-workers", str(self.expected), *wait]
            return [*expected, "--master-bind-host", host, "--master-bind-port", port]
        if self.processes:
            port = str(_free_port())
            at = ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
            return ["--processes", str(self.processes), *at]
        return []


def run_locust(scenario: Scenario, folder: Path, workers: Workers | None = None) -> Outcome:
    """Let users loose on a server, and return what they found.

    Args:
        scenario: what the run is made of.
        folder: where `outcome.json`, `locust.html` and `locust.log` are written.
        workers: who sends the requests; by default one process.

    Raises:
        LoadTestError: Locust failed, no request was made, or the load test's own code did not work.
    """
    workers = workers or Workers()
    folder.mkdir(parents=True, exist_ok=True)
    file, log = folder / "outcome.json", folder / "locust.log"
    file.unlink(missing_ok=True)
    wait_seconds = workers.wait_seconds if workers.expected else 0
    code = _run(_command(scenario, folder, workers), log, scenario.seconds + wait_seconds + _GRACE_SECONDS)
    if not file.exists():
        raise LoadTestError(f"Locust failed with exit code {code}\n{log_tail(log)}")
    outcome = read_outcome(file)
    if outcome.crashes:
        raise LoadTestError(f"{outcome.crashes[0]}\n{log_tail(log)}")
    if code != 0:
        raise LoadTestError(f"Locust failed with exit code {code}\n{log_tail(log)}")
    if not any(row.sent for row in outcome.requests):
        raise LoadTestError(f"no request was made\n{log_tail(log)}")
    return outcome


def _command(scenario: Scenario, folder: Path, workers: Workers) -> list[str]:
    command = [sys.executable, "-m", "locust", "--locustfile", str(_LOCUSTFILE), "--headless", "--only-summary"]
    command += ["--host", scenario.host, "--scenario", scenario.text(), "--outcome", str(folder / "outcome.json")]
    command += [
        "--html",
        str(folder / "locust.html"),
        "--stop-timeout",
        str(_STOP_SECONDS),
        "--exit-code-on-error",
        "0",
    ]
    return [*command, *workers.options(), *(KINDS[kind].user for kind in scenario.profile.kinds)]


def _run(command: Sequence[str], log: Path, seconds_max: float) -> int:
    """Run a command whose output goes to a file, and end it with all its children when it takes too long."""
    # `demo` and `loadtest` are imported from the checkout, wherever Locust puts its own folder.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])}
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=CHECKOUT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            return process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            raise LoadTestError(f"Locust did not stop by itself\n{log_tail(log)}") from None
        finally:
            if process.poll() is None:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children, which are a group of their own."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
