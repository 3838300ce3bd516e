import subprocess
import sys

import pytest
from click.testing import CliRunner
from google.rpc import code_pb2, status_pb2

from clip_search.cli import main
from clip_search.cli.program import COMMANDS
from clip_search.cli.settings import SERVER_VARIABLE
from tests.unit.client.conftest import Program
from tests.unit.client.fake_server import FakeServer, exhausted, invalid


def test_the_help_says_what_the_commands_say() -> None:
    """The summaries, which stand apart so that nothing need be imported, are those of the commands themselves."""
    context = main.make_context("search_client", ["health"])
    for name, known in COMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str(limit=200) == known.summary


def test_the_help_imports_nothing_heavy() -> None:
    """Help is quick because neither gRPC nor NumPy nor rich is imported for it."""
    check = (
        "import sys; from clip_search.cli import main; main(['--help'], standalone_mode=False); "
        "sys.exit(any(name in sys.modules for name in ('grpc', 'numpy', 'rich', 'google.protobuf')))"
    )
    paths = ":".join(path for path in sys.path if path)
    done = subprocess.run([sys.executable, "-c", check], env={"PYTHONPATH": paths}, capture_output=True, check=False)
    assert done.returncode == 0
    assert b"Find pictures by describing them" in done.stdout


@pytest.mark.parametrize("place", ["before", "after"])
def test_shared_options_may_stand_before_or_after_the_command(server: FakeServer, place: str) -> None:
    """`--server` and `--json` mean the same on either side of the command's name."""
    shared = ["--server", server.address, "--json", "--timeout", "5"]
    arguments = [*shared, "stats"] if place == "before" else ["stats", *shared]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith('{"collection": "default"')


def test_the_server_comes_from_the_environment_unless_told(server: FakeServer) -> None:
    """An option after the command beats one before it, which beats the variable."""
    runner = CliRunner(env={SERVER_VARIABLE: server.address})
    assert runner.invoke(main, ["stats"]).exit_code == 0
    runner = CliRunner(env={SERVER_VARIABLE: "127.0.0.1:1"})
    assert runner.invoke(main, ["--server", server.address, "stats"]).exit_code == 0
    assert runner.invoke(main, ["--server", "127.0.0.1:2", "stats", "--server", server.address]).exit_code == 0
    result = runner.invoke(main, ["stats"])
    assert result.exit_code == 1
    assert "cannot reach 127.0.0.1:1 " in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--server", "localhost", "stats"],
        ["--server", "localhost:0", "stats"],
        ["--server", "localhost:70000", "stats"],
        ["--server", "http://localhost:50051", "stats"],
        ["--timeout", "0", "stats"],
        ["unknown"],
        ["search"],
        ["search", "dog", "--limit", "0"],
        ["search", "dog", "--min-score", "2"],
        ["search", "--not", "cat"],
        ["index"],
        ["index", "/nowhere"],
        ["classify", "/nowhere.png", "dog"],
        ["get"],
        ["delete"],
        ["list", "--all", "--limit", "3"],
        ["embed"],
        ["embed", "dog", "--output", "vector.txt"],
        ["embed", "dog", "--lines", "-"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_with_2(arguments: list[str]) -> None:
    """Usage errors explain themselves on stderr, and nothing is sent anywhere."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Usage: ")


def test_usage_errors_are_json_too() -> None:
    """With --json a wrong command line is a JSON object on stderr."""
    result = CliRunner().invoke(main, ["--json", "list", "--all", "--limit", "3"])
    assert result.exit_code == 2
    assert result.stderr == '{"error": {"code": "USAGE", "message": "--limit and --all exclude each other"}}\n'


def test_a_server_that_is_away_is_explained() -> None:
    """The error names the address and the command that starts a server, and the exit code is 1."""
    result = CliRunner().invoke(main, ["--server", "127.0.0.1:1", "search", "dog"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: cannot reach 127.0.0.1:1 (Connection refused).")
    assert "clip-search serve --bundle BUNDLE --data DIR" in result.stderr


def test_fields_at_fault_are_shown(server: FakeServer, program: Program) -> None:
    """An INVALID_ARGUMENT lists the fields that its message does not explain already."""
    server.fail_with = invalid("the query is bad", "parts[0].content.text", "must not be empty")
    result = program("search", "dog")
    assert result.exit_code == 1
    assert result.stderr == "error: the query is bad\n  parts[0].content.text: must not be empty\n"
    server.fail_with = invalid("parts[0].content.text: must not be empty", "parts[0].content.text", "must not be empty")
    assert program("search", "dog").stderr == "error: parts[0].content.text: must not be empty\n"
    assert program.error("search", "dog") == {
        "code": "INVALID_ARGUMENT",
        "message": "parts[0].content.text: must not be empty",
        "violations": [{"field": "parts[0].content.text", "description": "must not be empty"}],
    }


def test_a_full_queue_says_when_to_try_again(server: FakeServer, program: Program) -> None:
    """RESOURCE_EXHAUSTED carries its time, for people and for programs."""
    server.fail_with = exhausted("the queue is full", retry_seconds=2)
    assert program("search", "dog").stderr == "error: the queue is full\n  try again in 2 s\n"
    assert program.error("search", "dog")["retry_after_seconds"] == 2


def test_messages_of_the_server_cannot_steer_the_terminal(server: FakeServer, program: Program) -> None:
    """What a server says is shown, not obeyed."""
    server.fail_with = status_pb2.Status(code=code_pb2.NOT_FOUND, message="no \x1b[2Jitem [bold]x[/bold]")
    assert program("get", "x").stderr == "error: no \\x1b[2Jitem [bold]x[/bold]\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_told_how_to_complete(shell: str) -> None:
    """The line of the documentation gives a script that asks the program itself."""
    result = CliRunner(env={"_SEARCH_CLIENT_COMPLETE": f"{shell}_source"}).invoke(main, prog_name="search_client")
    assert result.exit_code == 0
    assert f"_SEARCH_CLIENT_COMPLETE={shell}_complete" in result.stdout


@pytest.mark.parametrize(
    ("words", "completion"),
    [
        ("search_client in", "index"),
        ("search_client index --pr", "--prune"),
        ("search_client search --rank", "--ranking"),
    ],
)
def test_commands_and_options_are_completed(words: str, completion: str) -> None:
    """Without asking a server."""
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_SEARCH_CLIENT_COMPLETE": "bash_complete"}
    result = CliRunner(env=asked).invoke(main, prog_name="search_client")
    assert result.stdout.splitlines() == [f"plain,{completion}"]


def test_an_interrupted_command_exits_with_130(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell gives it for a program that Ctrl-C ended."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clip_search.client.Client.stats", interrupt)
    result = CliRunner().invoke(main, ["--server", server.address, "stats"])
    assert result.exit_code == 130
    assert result.stderr == "error: interrupted\n"
