"""Starts each server as a process from its own environment, on a loopback port; knows nothing of what it is asked.

Every server is given what its documentation recommends on a processor and keeps its defaults otherwise. No server may
reach a network: models come from folders, usage reports and version checks are switched off.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.peers.protocols import CONNECTS
from demo.server_process import ServerProcess, log_tail

__all__ = ["running_servers"]

_START_SECONDS_MAX, _STOP_SECONDS_MAX = 300.0, 20.0
_OFFLINE = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "JINA_HIDE_SURVEY": "1",
    "JINA_OPTOUT_TELEMETRY": "1",
    "NO_VERSION_CHECK": "1",
}
_FLOW = {
    "jtype": "Flow",
    "version": "1",
    "with": {"protocol": "http", "host": "127.0.0.1"},
    "executors": [
        {
            "name": "clip_o",
            "host": "127.0.0.1",
            "timeout_ready": 3_000_000,
            "replicas": 1,
            "uses": {
                "jtype": "CLIPEncoder",
                "with": {"name": "ViT-B-32::openai"},
                "metas": {"py_modules": ["clip_server.executors.clip_onnx"]},
            },
        }
    ],
}
"""The `onnx-flow.yml` that clip-server ships, but for the protocol, the addresses and the model's path."""


@contextmanager
def running_servers(
    bundle: Path, checkpoint: Path, traced: Path, pythons: Mapping[str, str], folder: Path
) -> Iterator[Mapping[str, str]]:
    """Start all three servers, wait until each answers, and return their addresses; they are gone when this ends.

    Args:
        bundle: what clip-search serves.
        checkpoint: the same weights for Infinity.
        traced: the same weights for clip-as-service.
        pythons: the Python of each peer's environment by the peer's name.
        folder: for data and logs.
    """
    with ExitStack() as stack:
        own = stack.enter_context(ServerProcess.start(bundle, folder / "data", log=folder / "clip-search.log"))
        started = {"clip-search": own.address}
        commands = {
            "infinity": _infinity(pythons["infinity"], checkpoint),
            "clip-as-service": _clip_as_service(pythons["clip-as-service"], traced, folder),
        }
        for name, (command, port) in commands.items():
            process = stack.enter_context(_process(name, command, folder))
            started[name] = f"127.0.0.1:{port}"
            _await_answer(name, started[name], process, folder / f"{name}.log")
        yield started


def _infinity(python: str, checkpoint: Path) -> tuple[Sequence[str], int]:
    port = _free_port()
    command = [python, "-m", "infinity_emb.cli", "v2", "--model-id", str(checkpoint), "--served-model-name", "clip"]
    options = ["--engine", "torch", "--device", "cpu", "--log-level", "warning", "--host", "127.0.0.1"]
    return [*command, *options, "--port", f"{port}"], port


def _clip_as_service(python: str, traced: Path, folder: Path) -> tuple[Sequence[str], int]:
    port = _free_port()
    flow = json.loads(json.dumps(_FLOW))
    flow["with"]["port"] = port
    flow["executors"][0]["uses"]["with"]["model_path"] = str(traced.resolve())
    path = folder / "onnx-flow.yml"
    path.write_text(json.dumps(flow))  # YAML holds JSON
    return [python, "-m", "clip_server", str(path)], port


@contextmanager
def _process(name: str, command: Sequence[str], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env=os.environ | _OFFLINE, start_new_session=True
        )
    try:
        yield process
    finally:
        _end_group(process)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a server and whatever it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_STOP_SECONDS_MAX)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _await_answer(name: str, address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Ask until the server answers.

    Raises:
        SystemExit: it does not; shows the end of its log.
    """
    until = time.monotonic() + _START_SECONDS_MAX
    while time.monotonic() < until and process.poll() is None:
        try:
            CONNECTS[name](address).ask(["a first text"])
        except (OSError, RuntimeError):
            time.sleep(0.5)
        else:
            return
    raise SystemExit(f"{name} does not answer\n{log_tail(log)}")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
