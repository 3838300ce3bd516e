"""The command line of the load test, before anything is started."""

import re
import shlex
from pathlib import Path

import pytest

from loadtest import run
from loadtest.locust_process import Workers
from loadtest.names import names_of
from loadtest.profiles import KINDS, PROFILES
from loadtest.slo import BOUNDS, read_slo

_PAGE = (Path(__file__).resolve().parents[3] / "docs" / "loadtests.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--users", "4"], "--users from 5 on"),
        (["--profile", "search", "--users", "0"], "--users from 1 on"),
        (["--seconds", "0"], "--seconds from 1"),
        (["--profile", "storm"], "invalid choice: 'storm'"),
        (["--processes", "2", "--expect-workers", "2"], "exclude each other"),
        (["--processes", "-1"], "not negative"),
        (["--metrics", "http://localhost:1"], "a server that --host names"),
        (["--ca", "ca.pem"], "a server that --host names"),
        (["--host", "a:1", "--certificate", "c.pem"], "belong together"),
        (["--slo", "nowhere.toml"], "nowhere.toml cannot be read"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_a_sentence(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is started, and the option at fault is named."""
    with pytest.raises(SystemExit) as ended:
        run.main(arguments)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_server_that_is_not_there_is_told_before_users_come(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence and exit code 1; no report of thousands of failures."""
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    options = ["--host", "127.0.0.1:1", "--pictures", str(tmp_path), "--output", str(tmp_path / "out")]
    assert run.main(options) == 1
    assert "cannot reach 127.0.0.1:1" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_workers_of_this_machine_are_reached_by_this_machine_alone() -> None:
    """The leading process listens on loopback, unless it waits for workers from elsewhere where it was told to."""
    own = Workers(processes=2).options()
    assert own[:4] == ["--processes", "2", "--master-bind-host", "127.0.0.1"]
    assert own[own.index("--master-bind-port") + 1] == own[own.index("--master-port") + 1]
    others = Workers(expected=3, bind="10.0.0.5:6000").options()
    assert others[others.index("--master-bind-host") + 1] == "10.0.0.5"
    assert others[others.index("--master-bind-port") + 1] == "6000"
    assert Workers().options() == []


def test_the_page_names_options_that_there_are() -> None:
    """Every command of docs/loadtests.md is understood, whatever the line breaks in it."""
    commands = re.findall(r'make loadtest ARGS="([^"]*)"', _PAGE.replace("\\\n", " "))
    assert len(commands) >= 5
    for command in commands:
        run._parser().parse_args(shlex.split(command))  # exits where it is wrong


def test_the_page_tells_of_every_profile_bound_and_request() -> None:
    """Whoever adds one adds it to the page."""
    missing = [name for name in (*PROFILES, *BOUNDS, *names_of(KINDS)) if f"`{name}`" not in _PAGE]
    assert not missing


def test_the_page_shows_an_slo_that_can_be_read(tmp_path: Path) -> None:
    """Its example names requests and bounds that there are."""
    (example,) = re.findall(r"```toml\n(.*?)```", _PAGE, re.DOTALL)
    (tmp_path / "slo.toml").write_text(example, encoding="utf-8")
    assert read_slo(tmp_path / "slo.toml", names_of(KINDS)).named
