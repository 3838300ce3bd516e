"""System calls that fail, or are a process's last, through strace; knows nothing of what processes do.

An injection is what `strace -e inject=` takes: `fsync:error=EIO:when=3+`, say. With `when`, each thread of the process
counts its own calls.
"""

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_SECONDS_MAX = 30


def under_strace(injection: str) -> list[str]:
    """Return what to put before a command; skip the test where strace is missing."""
    _require_strace()
    # Not with --seccomp-bpf, which is quicker: strace 6.1 then forgets to send a signal at any but the first call.
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={injection}"]


@contextlib.contextmanager
def injected(pid: int, injection: str, log: Path) -> Iterator[None]:
    """Have a running process meet the injection while the block runs; skip the test where it may not be traced.

    Args:
        pid: the process, with all of its threads.
        injection: what it meets.
        log: where strace says what it is doing.
    """
    _require_strace()
    with log.open("w") as stream:
        command = ["strace", "-f", "-p", str(pid), "-o", "/dev/null", "-e", f"inject={injection}"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            first = process.stderr.readline()  # "Process N attached with M threads"
            stream.write(first)
            if "attached" not in first:
                pytest.skip(f"strace may not trace here: {first.strip()}")
            yield
        finally:
            process.send_signal(signal.SIGINT)  # It lets the process go.
            stream.write(process.communicate(timeout=_SECONDS_MAX)[1])


def _require_strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
