"""`ServerProcess` with small programs in the server's place."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from demo import server_process
from demo.server_process import ServerProcess, ServerProcessError

_POLITE = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_CODE))
    print("loading", file=sys.stderr, flush=True)
    print("listening on 127.0.0.1:4321", flush=True)
    print("options:", *sys.argv[1:], flush=True)
    while True:
        time.sleep(0.05)
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ServerProcess]:
    """Start a program given as source text as if it were `clip-search`."""

    def start_program(source: str, *, timeout_s: float = 20, **options: object) -> ServerProcess:
        script = tmp_path / "clip-search"
        script.write_text(f"#!{sys.executable}\n{textwrap.dedent(source)}")
        script.chmod(0o755)
        monkeypatch.setattr(server_process, "program", lambda _: str(script))
        return ServerProcess.start(
            tmp_path / "bundle",
            tmp_path / "data",
            log=tmp_path / "server.log",
            timeout_s=timeout_s,
            **options,  # type: ignore[arg-type]
        )

    return start_program


def test_a_ready_server_tells_its_address_and_stops_when_asked(
    tmp_path: Path, start: Callable[..., ServerProcess]
) -> None:
    """The address is read from the output, which all goes to the log, and SIGTERM ends it with exit code 0."""
    with start(_POLITE.replace("EXIT_CODE", "0"), options=("--segment-rows", "256")) as server:
        assert server.address == "127.0.0.1:4321"
        assert server.is_running()
        assert server.stop() < 20
    assert not server.is_running()
    log = (tmp_path / "server.log").read_text()
    assert "loading" in log
    assert "listening on" in log


def test_the_command_line_is_that_of_serve(tmp_path: Path, start: Callable[..., ServerProcess]) -> None:
    """Bundle, data folder, address and further options are passed to `clip-search serve`."""
    source = "import sys\nprint(*sys.argv[1:], file=sys.stderr)\nsys.exit(1)"
    with pytest.raises(ServerProcessError) as caught:
        start(source, options=("--segment-rows", "256"))
    expected = f"serve --bundle {tmp_path}/bundle --data {tmp_path}/data --listen 127.0.0.1:0 --segment-rows 256"
    assert expected in str(caught.value)


def test_a_server_that_ends_while_starting_is_reported_with_its_log(start: Callable[..., ServerProcess]) -> None:
    """The error holds the exit code and the last lines that the server wrote."""
    with pytest.raises(ServerProcessError, match="exit code 3") as caught:
        start("import sys\nprint('no such bundle', file=sys.stderr)\nsys.exit(3)")
    assert "no such bundle" in str(caught.value)


def test_a_server_that_never_gets_ready_is_ended(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """After the time limit the silent process is gone, and the error says how long was waited."""
    source = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    with pytest.raises(ServerProcessError, match="not ready within 2 s"):
        start(source, timeout_s=2)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


def test_a_server_that_stops_with_an_error_is_reported(start: Callable[..., ServerProcess]) -> None:
    """An exit code other than 0 after SIGTERM is an error."""
    with start(_POLITE.replace("EXIT_CODE", "7")) as server, pytest.raises(ServerProcessError, match="exit code 7"):
        server.stop()


def test_a_server_that_will_not_stop_is_killed(start: Callable[..., ServerProcess]) -> None:
    """A server that ignores SIGTERM does not outlive its owner, and that is an error."""
    stubborn = _POLITE.replace("lambda *_: sys.exit(EXIT_CODE)", "signal.SIG_IGN")
    server = start(stubborn)
    with pytest.raises(ServerProcessError, match="did not stop"):
        server.stop(timeout_s=0.2)
    assert not server.is_running()


def test_a_server_that_died_is_noticed(start: Callable[..., ServerProcess]) -> None:
    """Stopping a server that had ended already says so, instead of passing for success."""
    server = start("import sys\nprint('listening on 127.0.0.1:1', flush=True)\nsys.exit(0)")
    server._process.wait(20)
    with pytest.raises(ServerProcessError, match="ended on its own"):
        server.stop()


def test_an_error_meanwhile_ends_the_server_and_stays_the_error(start: Callable[..., ServerProcess]) -> None:
    """Whatever went wrong in the block is what the caller sees, and the server is gone."""
    with pytest.raises(KeyError, match="mine"), start(_POLITE.replace("EXIT_CODE", "7")) as server:
        raise KeyError("mine")
    assert not server.is_running()
