"""The project's programs as child processes, which never outlive this one; knows nothing of what they do.

A program is run by the interpreter that runs this one, so that both are of one installation. Ctrl-C at the terminal
reaches this process alone, which then stops its children in order; should it be killed, the kernel stops them.
"""

import contextlib
import ctypes
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self

__all__ = ["ProgramError", "Service", "ask", "run"]

_MODULES = {"clip-search": "clip_search.launcher", "search_client": "clip_search.cli"}
_READY = re.compile(r"listening on (\S+)")
_LOG_LINES_SHOWN = 12
_ARGUMENTS_SHOWN = 3
_INFO = re.compile(r"^\S+ \S+ INFO ")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_POLL_SECONDS = 0.2


class ProgramError(Exception):
    """A program did not do what it should; the message says which, and ends with what it wrote last."""


def _command(program: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-c", f"from {_MODULES[program]} import main; main(prog_name={program!r})", *arguments]


def _die_with_parent() -> None:
    """Ask the kernel, in the child, to stop it when its parent is gone."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _spawn(
    program: str, arguments: Sequence[str], output: int | None, errors: IO[str] | None
) -> "subprocess.Popen[str]":
    with _undisturbed():
        return subprocess.Popen(  # noqa: S603  # our own
            _command(program, arguments),
            stdout=output,
            stderr=errors,
            text=True,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  # one call into the kernel, and no threads that matter
        )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until a process is there: what their handlers raise amid a fork would be lost."""
    came: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    held = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in held:
        signal.signal(number, remember)
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


def run(program: str, arguments: Sequence[str]) -> int:
    """Run a program to its end, with this one's terminal, and give its exit code; Ctrl-C stops it first.

    Raises:
        ProgramError: a signal ended it, and so it said nothing.
    """
    code, _ = _complete(program, arguments, None)
    return code


def ask(program: str, arguments: Sequence[str]) -> str:
    """Run a program to its end and give what it printed; Ctrl-C stops it first.

    Raises:
        ProgramError: it failed.
    """
    code, output = _complete(program, arguments, subprocess.PIPE)
    if code != 0:
        raise ProgramError(f"{program} {' '.join(arguments[:_ARGUMENTS_SHOWN])} … failed, exit code {code}")
    return output


def _complete(program: str, arguments: Sequence[str], output: int | None) -> tuple[int, str]:
    child = _spawn(program, arguments, output, None)
    try:
        printed, _ = child.communicate()
    except BaseException:
        # An export ends in silence when it is terminated; `search_client` sums up what it has done when interrupted.
        _stop(child, signal.SIGTERM if program == "clip-search" else signal.SIGINT)
        raise
    if child.returncode < 0:
        hint = ": is there enough memory?" if child.returncode == -signal.SIGKILL else ""
        name = signal.Signals(-child.returncode).name
        raise ProgramError(f"{program} {arguments[0]} was ended by {name}{hint}")
    return child.returncode, printed or ""


class Service:
    """A program that runs until it is stopped, and says `listening on ADDRESS` once it is ready.

    Args:
        arguments: of `clip-search`.
        log: file that all it writes goes to, begun anew.
        ready_seconds_max: how long it may take to become ready.

    Attributes:
        name: its subcommand.
        address: what it says that it listens on.

    Raises:
        ProgramError: it ended instead, or was not ready in time.
    """

    def __init__(self, arguments: Sequence[str], log: Path, *, ready_seconds_max: float = 600.0) -> None:
        self.name = arguments[0]
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as errors:
            self._process = _spawn("clip-search", arguments, subprocess.PIPE, errors)
        try:
            self.address = self._await_ready(ready_seconds_max)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def check(self) -> None:
        """Raise `ProgramError` if it has ended."""
        code = self._process.poll()
        if code is not None:
            raise ProgramError(f"clip-search {self.name} ended on its own, exit code {code}{self._last_lines()}")

    def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        _stop(self._process, signal.SIGTERM)

    def _await_ready(self, seconds_max: float) -> str:
        output = self._process.stdout
        if output is None:
            raise RuntimeError("the program was started without a pipe. This is a bug.")
        said: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_follow, args=(output, said), daemon=True).start()
        try:
            address = said.get(timeout=seconds_max)
        except queue.Empty:
            message = f"clip-search {self.name} was not ready within {seconds_max:.0f} s{self._last_lines()}"
            raise ProgramError(message) from None
        if address is None:
            code = self._process.wait()
            raise ProgramError(f"clip-search {self.name} did not start, exit code {code}{self._last_lines()}")
        return address

    def _last_lines(self) -> str:
        with contextlib.suppress(OSError), self._log.open(encoding="utf-8", errors="replace") as lines:
            # What went as it should explains nothing.
            telling = (line for line in lines if not _INFO.match(line))
            last = "".join(f"  {line}" for line in deque(telling, _LOG_LINES_SHOWN)).rstrip()
            return f"; {self._log} ends with\n{last}" if last else f"; {self._log} may tell more"
        return ""


def _follow(output: IO[str], said: "queue.Queue[str | None]") -> None:
    """Hand on the address; what comes after it is read and dropped, so that the program never waits for a reader."""
    with output:
        for line in output:
            if match := _READY.search(line):
                said.put(match[1])
    said.put(None)


def _stop(process: "subprocess.Popen[str]", how: signal.Signals) -> None:
    """End a process: politely for twenty seconds, then for certain."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
