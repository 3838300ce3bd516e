import asyncio
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from clip_search_server import commands
from clip_search_server.encoder.towers import EncoderSettings
from clip_search_server.limits import Limits
from clip_search_server.rpc.server import ServerOptions


@pytest.fixture(autouse=True)
def _switch_interval() -> Iterator[None]:
    """Serving changes the interpreter of the whole process."""
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ServerOptions]:
    """The options that `serve` would have started servers with."""
    options: list[ServerOptions] = []

    async def start(given: ServerOptions, announce: Callable[[str], None]) -> None:
        await asyncio.sleep(0)
        options.append(given)
        announce("127.0.0.1:1")

    monkeypatch.setattr(commands, "run_server", start)
    return options


def _serve(folder: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(commands.serve, ["--bundle", str(folder), "--data", str(folder), *options])
    return result.exit_code, result.output


@pytest.mark.parametrize("engine", ["auto", "hnswlib", "faiss", "usearch"])
def test_the_engine_is_chosen_on_the_command_line(started: list[ServerOptions], tmp_path: Path, engine: str) -> None:
    """`--engine` reaches the index; without it the settings' default holds."""
    assert _serve(tmp_path, "--engine", engine)[0] == 0
    assert _serve(tmp_path)[0] == 0
    assert [options.index.engine for options in started] == [engine, "auto"]


def test_an_unknown_engine_is_a_usage_error(started: list[ServerOptions], tmp_path: Path) -> None:
    """The message lists what there is, and nothing is started."""
    code, output = _serve(tmp_path, "--engine", "annoy")
    assert code == 2
    assert "'auto', 'hnswlib', 'faiss', 'usearch'" in output
    assert started == []


def test_what_is_measured_can_be_fixed(started: list[ServerOptions], tmp_path: Path) -> None:
    """Threads and batch sizes given as options reach the encoder; without them measurement decides (0)."""
    given = ["--image-threads", "3", "--text-threads", "2", "--image-batch-max", "5", "--text-batch-tokens-max", "99"]
    assert _serve(tmp_path, *given)[0] == 0
    assert _serve(tmp_path)[0] == 0
    assert [options.encoder for options in started] == [EncoderSettings(3, 2, 5, 99), EncoderSettings()]


def test_every_limit_is_an_option(started: list[ServerOptions], tmp_path: Path) -> None:
    """Each bound can be set by its own name, the number of open calls and the bytes they hold among them."""
    options: list[str] = []
    for number, limit in enumerate(dataclasses.fields(Limits), 1_000):
        options += [f"--{limit.name.replace('_', '-')}", f"{number}"]
    assert _serve(tmp_path, *options)[0] == 0
    assert list(dataclasses.astuple(started[0].limits)) == list(range(1_000, 1_000 + len(options) // 2))


def test_threads_take_turns_quickly_in_a_server(started: list[ServerOptions], tmp_path: Path) -> None:
    """Else each step of a search would wait five milliseconds for a thread that works in Python."""
    assert sys.getswitchinterval() == 0.005
    assert _serve(tmp_path)[0] == 0
    assert sys.getswitchinterval() <= 0.0005
