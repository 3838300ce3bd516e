"""`clip-search up`: from a folder of photos to a page, and again."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.hub_stub import HubStub
from tests.unit.export.random_checkpoints import write_hf_clip

PROGRAM = "from clip_search_photos.up_command import up; up()"
NAME = "org/model"


class Run:
    """One run of the command, as a process whose output is read line by line."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments, "--no-open"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )

    def until(self, beginning: str) -> str:
        """Read on to a line that begins so, and give the rest of it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith(beginning):
                return line.removeprefix(beginning).strip()
        pytest.fail(f"it never said {beginning!r}:\n{''.join(self.said)}")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Stop it and give its exit code."""
        self.process.send_signal(number)
        return self.rest()

    def rest(self) -> int:
        """Read to its end and give its exit code."""
        self.said.append(self.process.communicate(timeout=60)[0])
        return self.process.returncode

    @property
    def output(self) -> str:
        """All that was read."""
        return "".join(self.said)


@pytest.fixture
def photos(tmp_path: Path, png: Callable[..., bytes]) -> Path:
    """A folder of two photos."""
    folder = tmp_path / "photos"
    (folder / "2024").mkdir(parents=True)
    (folder / "a.png").write_bytes(png("red"))
    (folder / "2024" / "b.png").write_bytes(png("blue"))
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts the command with folders of its own."""
    runs: list[Run] = []

    def start_it(*arguments: str, **environment: str) -> Run:
        homes = {f"XDG_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("CACHE", "DATA", "STATE")}
        run = Run(["--listen", "127.0.0.1:0", *arguments], {**homes, **environment})
        runs.append(run)
        return run

    yield start_it
    for run in runs:
        if run.process.poll() is None:
            run.process.terminate()
        run.process.communicate()


def _get(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"{address}{path}", timeout=20) as answer:
        return json.load(answer)


def _items(address: str) -> int:
    return int(_get(address, "api/status")["items"])


def _children(run: Run) -> list[int]:
    pid = run.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_running(pid: int) -> bool:
    """Tell whether a process is there, and is more than what its parent has not looked at yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait(condition: Callable[[], bool], seconds_max: float = 30.0) -> None:
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


@pytest.mark.timeout(240)
def test_one_command_leads_from_photos_to_a_page_and_again(
    photos: Path, start: Callable[..., Run], png: Callable[..., bytes]
) -> None:
    """It exports, serves, indexes and shows; run again, it exports nothing, finds what is new, and ends in order."""
    first = start(str(photos), "--model", "demo")
    address = first.until("page: ")
    first.until("ready: ")
    assert "licence       apache-2.0" in first.output
    found = _get(address, "api/search?q=red")["items"]
    assert {hit["id"] for hit in found} == {"photos/a.png", "photos/2024/b.png"}
    with urllib.request.urlopen(address.rstrip("/") + found[0]["whole"], timeout=20) as picture:
        assert picture.headers["Content-Type"] == "image/png"
    children = _children(first)
    assert len(children) == 2
    assert first.end() == 0
    assert first.output.endswith("stopped\n")
    assert not any(map(_is_running, children))
    second = start(str(photos), "--model", "demo", "--watch")
    address = second.until("page: ")
    second.until("ready: ")
    assert "exported before to" in second.output
    assert "exporting" not in second.output
    assert _items(address) == 2
    (photos / "new.png").write_bytes(png("green"))
    _wait(lambda: _items(address) == 3)
    assert second.end(signal.SIGINT) == 0


@pytest.mark.timeout(240)
def test_nothing_is_left_when_it_is_killed_or_a_part_ends(photos: Path, start: Callable[..., Run]) -> None:
    """Killed, it takes its children along; when a child ends, it says which and stops the others."""
    killed = start(str(photos), "--model", "demo")
    killed.until("ready: ")
    children = _children(killed)
    killed.process.kill()
    _wait(lambda: not any(map(_is_running, children)))
    broken = start(str(photos), "--model", "demo")
    broken.until("ready: ")
    children = _children(broken)
    (page,) = [pid for pid in children if b"\0gallery\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(page, signal.SIGTERM)
    assert broken.rest() == 1
    assert "clip-search gallery ended on its own" in broken.output
    assert not any(map(_is_running, children))


@pytest.mark.timeout(240)
def test_a_model_of_the_hub_is_told_before_it_is_fetched_and_fetched_once(
    photos: Path, start: Callable[..., Run], tmp_path: Path
) -> None:
    """Licence and megabytes come first; the second run needs no hub."""
    source = write_hf_clip(tmp_path / "source")
    (source / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    with HubStub() as hub:
        hub.add(NAME, source)
        run = start(str(photos), "--model", NAME, **hub.environment(tmp_path / "hub"))
        run.until("ready: ")
        assert run.output.index(f"the licence of {NAME} is mit") < run.output.index("downloading model.safetensors (")
        assert run.end() == 0
        environment = hub.environment(tmp_path / "hub")
    again = start(str(photos), "--model", NAME, **environment)
    address = again.until("page: ")
    again.until("ready: ")
    assert _items(address) == 2
    assert again.end() == 0


def test_what_cannot_be_done_is_said(photos: Path, start: Callable[..., Run]) -> None:
    """A model that is nowhere; then a port that is taken, by the page's own words."""
    run = start(str(photos), "--model", "no-such-model")
    assert run.rest() == 1
    assert "neither a folder nor a hub id" in run.output
    assert "the model could not be exported" in run.output
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        run = start(str(photos), "--model", "demo", "--listen", listen)
        assert run.rest() == 1
    assert f"cannot listen on {listen}" in run.output
