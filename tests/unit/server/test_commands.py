import asyncio
import dataclasses
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from clip_search_server import commands
from clip_search_server.encoder.towers import EncoderSettings
from clip_search_server.limits import Limits
from clip_search_server.rpc.server import ServerOptions

_OWN = logging.getLogger("clip_search_server")


@pytest.fixture(autouse=True)
def _process() -> Iterator[None]:
    """Serving changes the interpreter and the logging of the whole process."""
    before, level = sys.getswitchinterval(), _OWN.level
    yield
    sys.setswitchinterval(before)
    _OWN.setLevel(level)


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


def test_the_log_level_is_the_projects_own(started: list[ServerOptions], tmp_path: Path) -> None:
    """Of libraries nothing below INFO is logged, whatever level is asked for: they quote what they work on."""
    for level in ("debug", "warning"):
        assert _serve(tmp_path, "--log-level", level)[0] == 0
        assert logging.getLogger("clip_search_server.any.module").getEffectiveLevel() == _OWN.level
        assert logging.getLevelName(_OWN.level) == level.upper()
    assert not logging.getLogger("PIL.TiffImagePlugin").isEnabledFor(logging.DEBUG)


def test_variables_that_are_no_settings_are_told(
    started: list[ServerOptions],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With what may be meant; their values, which may be secrets, are not repeated, and the server starts."""
    monkeypatch.setenv("CLIP_SEARCH_SERVE_CALL_MAX", "7-secret")
    monkeypatch.setenv("CLIP_SEARCH_SERVE_XYZZY", "8-secret")
    monkeypatch.setenv("CLIP_SEARCH_SERVE_LABELS_MAX", "9")
    monkeypatch.setenv("CLIP_SEARCH_SERVER", "localhost:50051")  # the client's
    assert _serve(tmp_path)[0] == 0
    assert [record.getMessage() for record in caplog.records] == [
        "CLIP_SEARCH_SERVE_CALL_MAX: is no setting; did you mean CLIP_SEARCH_SERVE_CALLS_MAX?",
        "CLIP_SEARCH_SERVE_XYZZY: is no setting",
    ]
    assert started[0].limits.labels_max == 9


def test_traces_are_sent_where_the_operator_says(started: list[ServerOptions], tmp_path: Path) -> None:
    """By default nowhere; a share that is none is refused."""
    url = "http://localhost:4318"
    assert _serve(tmp_path)[0] == 0
    assert _serve(tmp_path, "--trace-endpoint", url, "--trace-ratio", "0.5")[0] == 0
    assert [(options.trace_endpoint, options.trace_ratio) for options in started] == [(None, 0.01), (url, 0.5)]
    code, output = _serve(tmp_path, "--trace-ratio", "1.5")
    assert code == 2
    assert "--trace-ratio" in output


def test_what_is_open_to_callers_can_be_closed(started: list[ServerOptions], tmp_path: Path) -> None:
    """Reflection is offered unless told otherwise, metrics are not; TLS and keys come from files."""
    files = [str(tmp_path / name) for name in ("a.pem", "a.key", "ca.pem", "keys.toml")]
    tls = ["--tls-certificate", files[0], "--tls-key", files[1], "--tls-client-ca", files[2], "--api-keys", files[3]]
    assert _serve(tmp_path)[0] == 0
    assert _serve(tmp_path, "--no-reflection", "--metrics-listen", "127.0.0.1:0", *tls)[0] == 0
    opened, closed = started
    assert (opened.reflection, opened.metrics_listen, opened.tls, opened.api_keys) == (True, None, None, None)
    assert (closed.reflection, closed.metrics_listen) == (False, "127.0.0.1:0")
    assert closed.tls is not None
    assert [*map(str, closed.tls.paths), str(closed.api_keys)] == files


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--tls-certificate", "a"], "--tls-certificate needs --tls-key"),
        (["--tls-key", "a"], "--tls-key needs --tls-certificate"),
        (["--tls-client-ca", "a"], "--tls-client-ca needs --tls-certificate and --tls-key"),
        (["--tls-key", "a", "--tls-client-ca", "b"], "--tls-key needs --tls-certificate"),
    ],
)
def test_half_of_tls_is_a_usage_error(
    started: list[ServerOptions], tmp_path: Path, given: list[str], words: str
) -> None:
    """It is never taken for none."""
    code, output = _serve(tmp_path, *given)
    assert code == 2
    assert words in " ".join(output.split())
    assert started == []
