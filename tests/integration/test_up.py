"""`clip-search up`: from a folder of photos to a page, and again."""

import json
import os
import re
import shutil
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

from clip_search_export.models import DEFAULT
from tests.hub_stub import HubStub
from tests.unit.export.random_checkpoints import VIT_B_32, write_hf_clip

PROGRAM = "from clip_search_photos.up_command import up; up()"
NAME = "org/model"
CARD = "---\nlicense: mit\n---\n# A model\n"
METRICS = {"CLIP_SEARCH_SERVE_METRICS_LISTEN": "127.0.0.1:0"}
RECORDER = """
import os, sys

def record(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        with open(os.environ["CONNECTIONS"], "a") as file:
            file.write(f"{arguments[1] if event == 'socket.connect' else arguments[0]!r}\\n")

sys.addaudithook(record)
"""


class Recorder:
    """Writes down whom all Python programs that are started with its environment look up or call."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(RECORDER)
        self._connections = folder / "connections"
        self._connections.touch()
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {"PYTHONPATH": os.pathsep.join(paths), "CONNECTIONS": str(self._connections)}

    def strangers(self) -> set[str]:
        """Give those that are not this machine."""
        seen = set(self._connections.read_text().splitlines())
        return {line for line in seen if not re.search(r"127\.0\.0\.1|localhost", line)}


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
def recorder(tmp_path: Path) -> Recorder:
    """Nothing is recorded yet."""
    return Recorder(tmp_path / "recorder")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts the command with folders of its own, but for the cache: what is exported and measured stays for others."""
    runs: list[Run] = []

    def start_it(*arguments: str, **environment: str) -> Run:
        homes = {f"XDG_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("DATA", "STATE")}
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


def _ids(address: str, query: str) -> set[str]:
    return {hit["id"] for hit in _get(address, f"api/search?q={query}")["items"]}


def _metric(home: Path, name: str) -> float:
    """Read a figure of the server, which its log tells the address of."""
    (log,) = home.glob("state/clip-search/photos/*/server.log")
    (address,) = re.findall(r"metrics at (\S+)", log.read_text())
    with urllib.request.urlopen(address, timeout=20) as answer:
        return sum(float(line.split()[-1]) for line in answer.read().decode().splitlines() if line.startswith(name))


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
    photos: Path, start: Callable[..., Run], recorder: Recorder, tmp_path: Path
) -> None:
    """It exports, serves, indexes and shows; run again, it exports nothing, and both end in order.

    The demo model needs no network: no process looks up or calls another machine.
    """
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), **recorder.environment}
    first = start(str(photos), "--model", "demo", **environment)
    address = first.until("page: ")
    first.until("ready: ")
    assert "MB, licence apache-2.0\n" in first.output
    found = _get(address, "api/search?q=red")["items"]
    assert {hit["id"] for hit in found} == {"photos/a.png", "photos/2024/b.png"}
    with urllib.request.urlopen(address.rstrip("/") + found[0]["whole"], timeout=20) as picture:
        assert picture.headers["Content-Type"] == "image/png"
    children = _children(first)
    assert len(children) == 2
    assert first.end() == 0
    assert first.output.endswith("stopped\n")
    assert not any(map(_is_running, children))
    second = start(str(photos), "--model", "demo", **environment)
    address = second.until("page: ")
    second.until("ready: ")
    assert "exported before to" in second.output
    assert "authoring" not in second.output
    assert _items(address) == 2
    assert second.end(signal.SIGINT) == 0
    assert second.output.endswith("stopped\n")
    assert recorder.strangers() == set()
    probe = "import socket; socket.getaddrinfo('example.invalid', 80)"
    environment = {**os.environ, **recorder.environment}
    subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, check=False)
    assert recorder.strangers() == {"'example.invalid'"}


@pytest.mark.timeout(240)
def test_a_watched_folder_is_kept_up_with(
    photos: Path, start: Callable[..., Run], png: Callable[..., bytes], tmp_path: Path
) -> None:
    """New photos are found, moved ones under their new name without being embedded again, and removed ones no more.

    What goes while nobody watches is forgotten at the next start.
    """
    (photos / "late.png").write_bytes(png("yellow"))
    run = start(str(photos), "--model", "demo", "--watch", **METRICS)
    address = run.until("page: ")
    run.until("ready: ")
    (photos / "new.png").write_bytes(png("green"))
    _wait(lambda: _items(address) == 4)
    embedded = _metric(tmp_path, "clip_search_contents_embedded_total")
    assert embedded >= 4
    (photos / "2024").rename(photos / "2025")
    (photos / "a.png").unlink()
    _wait(lambda: _ids(address, "red") == {"photos/2025/b.png", "photos/late.png", "photos/new.png"})
    assert _metric(tmp_path, "clip_search_contents_embedded_total") == embedded
    run.until("photos: 2 gone from the folders, and forgotten")
    assert run.end() == 0
    (photos / "late.png").unlink()
    again = start(str(photos), "--model", "demo")
    address = again.until("page: ")
    again.until("ready: ")
    assert _ids(address, "red") == {"photos/2025/b.png", "photos/new.png"}
    assert again.end() == 0


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
    """Licence and megabytes come first; later runs need no hub, not even to export the model once more."""
    source = write_hf_clip(tmp_path / "source")
    (source / "README.md").write_text(CARD)
    with HubStub() as hub:
        hub.add(NAME, source)
        environment = {**hub.environment(tmp_path / "hub"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        run = start(str(photos), "--model", NAME, **environment)
        run.until("ready: ")
        announced = f"0.5 MB to download; the licence of {NAME} is mit"
        assert run.output.index(announced) < run.output.index("downloading model.safetensors (")
        assert run.end() == 0
    again = start(str(photos), "--model", NAME, **environment)
    address = again.until("page: ")
    again.until("ready: ")
    assert _items(address) == 2
    assert again.end() == 0
    shutil.rmtree(tmp_path / "cache" / "clip-search" / "bundles")
    anew = start(str(photos), "--model", NAME, **environment)
    anew.until("ready: ")
    assert "the hub cannot be reached: using commit" in anew.output
    assert anew.end() == 0


@pytest.mark.large
@pytest.mark.timeout(1200)
def test_a_model_of_true_size_by_its_short_name(
    photos: Path, start: Callable[..., Run], tmp_path: Path, png: Callable[..., bytes]
) -> None:
    """CLIP ViT-B/32, 605 MB of random weights, from the hub to the page: some 90 s on two idle cores, 2 GB of disk.

    Run again, nothing is downloaded or exported, with the hub there and without it; a new photo is indexed all the
    same.
    """
    source = write_hf_clip(tmp_path / "source", **VIT_B_32)
    (source / "README.md").write_text(CARD)
    with HubStub() as hub:
        hub.add(DEFAULT.hub_id, source)
        environment = {**hub.environment(tmp_path / "hub"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        run = start(str(photos), "--model", DEFAULT.name, **environment)
        address = run.until("page: ")
        run.until("ready: ")
        announced = f"605.2 MB to download; the licence of {DEFAULT.hub_id} is mit"
        assert run.output.index(announced) < run.output.index("downloading model.safetensors (605.2 MB)")
        assert _ids(address, "red") == {"photos/a.png", "photos/2024/b.png"}
        assert run.end() == 0
        assert len(hub.requests_for("model.safetensors")) == 1
        hub.requests.clear()
        again = start(str(photos), "--model", DEFAULT.hub_id, **environment)
        again.until("ready: ")
        assert again.end() == 0
        assert hub.requests == []
    (photos / "new.png").write_bytes(png("green"))
    offline = start(str(photos), **environment)
    address = offline.until("page: ")
    offline.until("ready: ")
    assert "exported before to" in offline.output
    assert _items(address) == 3
    assert offline.end() == 0
    for folder in ("source", "hub", "cache"):
        shutil.rmtree(tmp_path / folder)


def test_what_cannot_be_done_is_said(photos: Path, start: Callable[..., Run]) -> None:
    """A model that is nowhere, said once; then a port that is taken, before anything is done."""
    run = start(str(photos), "--model", "no-such-model")
    assert run.rest() == 1
    assert "neither a folder nor a hub id" in run.output
    assert run.output.count("Error: ") == 1
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        run = start(str(photos), "--model", "demo", "--listen", listen)
        assert run.rest() == 1
    assert f"the page cannot be at {listen}" in run.output
    assert "model: " not in run.output
