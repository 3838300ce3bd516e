"""`clip-search gallery`: what it refuses, what it prints, and how it stops."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from clip_search_gallery.commands import _bind, gallery
from tests.unit.gallery.conftest import PictureServer

RUN = "from clip_search_gallery.commands import gallery; gallery()"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--listen", "0.0.0.0:0"], "add --insecure"),
        (["--listen", "photos.home:8080"], "add --insecure"),
        (["--listen", "8080"], "is not HOST:PORT"),
        (["--listen", "localhost:99999"], "is not HOST:PORT"),
        (["--pictures", "/no/such/folder"], "does not exist"),
    ],
)
def test_command_lines_that_are_wrong_exit_2(arguments: list[str], sentence: str) -> None:
    """The message says what to do."""
    result = CliRunner().invoke(gallery, arguments)
    assert result.exit_code == 2
    assert sentence in result.output


def test_a_port_that_is_taken_is_named() -> None:
    """With the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = CliRunner().invoke(gallery, ["--listen", address])
    assert result.exit_code == 1
    assert f"cannot listen on {address}" in result.output
    assert "--listen HOST:0" in result.output


def test_answers_are_not_held_back() -> None:
    """The listener names TCP: only then asyncio sends each piece of an answer at once."""
    with _bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


@pytest.fixture
def running(server: PictureServer) -> Iterator["subprocess.Popen[str]"]:
    """The program as a process of its own."""
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "--server", server.address, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_stops_in_order(running: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Once it prints its address it answers there; asked to stop, it exits 0 and says nothing more."""
    assert running.stdout is not None
    said, _, address = running.stdout.readline().strip().rpartition(" ")
    assert said == "listening on"
    with urllib.request.urlopen(address, timeout=20) as page:
        assert b"<title>clip-search</title>" in page.read()
    running.send_signal(number)
    out, err = running.communicate(timeout=20)
    assert (running.returncode, out, err) == (0, "", "")
