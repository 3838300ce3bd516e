"""Starts and stops a real `clip-search serve` or `gallery` as a child process; knows nothing of what is asked of it.

Used by the demo, the load test and the benchmarks. The child never outlives its `ServerProcess` as long as that is used
as a context manager: it is asked to stop with SIGTERM, and killed when it does not.
"""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_READY = re.compile(r"listening on (\S+:\d+)")
_METRICS = re.compile(r"metrics at (\S+)")
_LOG_TAIL_LINES = 20


class ServerProcessError(Exception):
    """The server did not start, or did not stop as it should; the message ends with the last lines of its log."""


def program(name: str) -> str:
    """Return the path of a program of this project, such as `clip-search`, beside the running Python.

    Raises:
        ServerProcessError: when the project is not installed there.
    """
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise ServerProcessError(
            f"{name} is not installed beside {sys.executable}: run make setup, or pip install -e ."
        )
    return str(path)


class ServerProcess:
    """A running server.

    Attributes:
        address: HOST:PORT it listens on; of a web page, its URL.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path, address: str) -> None:
        self.address = address
        self._process = process
        self._log = log

    @classmethod
    def start(
        cls,
        bundle: Path,
        data: Path,
        *,
        log: Path,
        listen: str = "127.0.0.1:0",
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
    ) -> Self:
        """Start a server and wait until it says that it is ready.

        Args:
            bundle: the model bundle it serves.
            data: its data folder.
            log: file that everything it writes is appended to.
            listen: HOST:PORT; port 0 takes a free one.
            options: further options of `clip-search serve`.
            environment: variables that are added to this process's own.
            timeout_s: how long it may take to become ready.

        Raises:
            ServerProcessError: when it ends or stays silent instead.
        """
        arguments = ["serve", "--bundle", str(bundle), "--data", str(data), "--listen", listen, *options]
        return cls.launch(arguments, log=log, environment=environment, timeout_s=timeout_s)

    @classmethod
    def launch(
        cls,
        arguments: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
    ) -> Self:
        """Start `clip-search` with these arguments, a command that says `listening on ADDRESS`, and wait for that.

        Raises:
            ServerProcessError: when it ends or stays silent instead.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [program("clip-search"), *arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | dict(environment or {}),
                start_new_session=True,  # Ctrl-C at the terminal reaches us alone, and we stop it in order
            )
        try:
            address = _await_ready(process, log, timeout_s)
        except BaseException:
            _end(process)
            raise
        return cls(process, log, address)

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def is_running(self) -> bool:
        """Tell whether the server is still there."""
        return self._process.poll() is None

    def stop(self, *, timeout_s: float = 30.0) -> float:
        """Ask the server to stop, wait for it, and return how many seconds that took.

        Raises:
            ServerProcessError: when it had ended already, takes longer than `timeout_s` (it is killed then) or exits
                with another code than 0.
        """
        if not self.is_running():
            raise ServerProcessError(
                f"the server ended on its own, exit code {self._process.returncode}\n{log_tail(self._log)}"
            )
        started = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            _end(self._process)
            raise ServerProcessError(
                f"the server did not stop within {timeout_s:.0f} s\n{log_tail(self._log)}"
            ) from None
        if code != 0:
            raise ServerProcessError(f"the server stopped with exit code {code}\n{log_tail(self._log)}")
        return time.monotonic() - started

    def kill(self) -> None:
        """End the server at once, as a crash would: SIGKILL, no draining."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server when it still runs; after an error without a further complaint."""
        if error is not None:
            _end(self._process)
        elif self.is_running():
            self.stop()


def _await_ready(process: subprocess.Popen[str], log: Path, timeout_s: float) -> str:
    """Return the address from the line `listening on HOST:PORT`; keeps copying the output to `log` afterwards."""
    if process.stdout is None:
        raise RuntimeError("the server was started without a pipe. This is a bug.")
    addresses: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_follow, args=(process.stdout, log, addresses), daemon=True).start()
    try:
        address = addresses.get(timeout=timeout_s)
    except queue.Empty:
        raise ServerProcessError(f"the server was not ready within {timeout_s:.0f} s\n{log_tail(log)}") from None
    if address is None:
        code = process.wait()
        raise ServerProcessError(f"the server ended while starting, exit code {code}\n{log_tail(log)}")
    return address


def _follow(output: IO[str], log: Path, addresses: "queue.Queue[str | None]") -> None:
    with output, log.open("a", encoding="utf-8") as copy:
        for line in output:
            copy.write(line)
            copy.flush()
            if match := _READY.search(line):
                addresses.put(match.group(1))
    addresses.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    """End the process one way or the other: politely for five seconds, then for certain."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def metrics_url(log: Path) -> str:
    """Return where a server that was started with `--metrics-listen` serves its metrics, as its log says."""
    found = _METRICS.search(log.read_text(encoding="utf-8"))
    if found is None:
        raise RuntimeError(f"{log} does not say where the metrics are. This is a bug.")
    return found[1]


def log_tail(log: Path) -> str:
    """Return the last lines of a server's log, with a heading."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        last = deque(lines, _LOG_TAIL_LINES)
    return (
        f"The last lines of {log}:\n" + "".join(f"  {line}" for line in last).rstrip() if last else f"{log} is empty."
    )
