"""The `clip-search` launcher: finding subcommands, and saying what is missing."""

import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from click.testing import CliRunner

from clip_search import __version__, launcher

ROOT = Path(__file__).resolve().parents[3]
MODULE_OF_EXTRA = {
    None: "clip_search.",
    "server": "clip_search_server.",
    "export": "clip_search_export.",
    "gallery": "clip_search_gallery.",
    "photos": "clip_search_photos.",
    "evaluation": "clip_search_evaluation.",
}


def _project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    assert isinstance(project, dict)
    return project


def _register(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, source: str) -> None:
    """Register a subcommand whose module has this source."""
    module = f"command_for_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    group = "clip_search.commands"
    registered = EntryPoints([EntryPoint(name=name, value=f"{module}:command", group=group)])
    monkeypatch.setattr(launcher, "entry_points", registered.select)


def test_known_commands_are_the_registered_ones() -> None:
    """The launcher knows exactly the subcommands that pyproject.toml registers, each with the extra it lives in."""
    groups = _project()["entry-points"]
    assert isinstance(groups, dict)
    registered = groups["clip_search.commands"]
    known = launcher._KNOWN_COMMANDS
    assert registered.keys() == known.keys()
    for name, value in registered.items():
        assert value.startswith(MODULE_OF_EXTRA[known[name].extra])


def test_help_lists_every_command_with_a_summary() -> None:
    """`clip-search --help` names each subcommand and what it does, and exits 0."""
    result = CliRunner().invoke(launcher.main, ["--help"])
    assert result.exit_code == 0
    for name, known in launcher._KNOWN_COMMANDS.items():
        assert f"  {name} " in result.output
        assert known.summary in result.output


def test_version_is_the_project_version() -> None:
    """The version that the program tells is the one that is packaged."""
    assert CliRunner().invoke(launcher.main, ["--version"]).output == f"clip-search, version {__version__}\n"
    assert _project()["version"] == __version__


def test_a_registered_command_runs_with_its_arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A subcommand gets the arguments behind its name, and its exit status is the program's."""
    source = (
        "import click\n"
        "@click.command()\n"
        "@click.argument('word')\n"
        "def command(word):\n"
        "    print(word)\n"
        "    raise SystemExit(7)\n"
    )
    _register(monkeypatch, tmp_path, "serve", source)
    result = CliRunner().invoke(launcher.main, ["serve", "hello"])
    assert (result.output, result.exit_code) == ("hello\n", 7)


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("serve", "server"),
        ("export", "export"),
        ("gallery", "gallery"),
        ("up", "photos"),
        ("evaluate", "evaluation"),
    ],
)
def test_missing_extra_prints_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, extra: str
) -> None:
    """A subcommand that cannot import a module of its extra says how to install the extra, and exits 2."""
    _register(monkeypatch, tmp_path, command, "import module_of_an_extra_that_is_missing\n")
    result = CliRunner().invoke(launcher.main, [command, "--help"])
    assert result.exit_code == 2
    assert f"this command needs the [{extra}] extra: pip install 'clip-search[{extra}]'" in result.output


def test_a_defect_of_our_own_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A module of this project that cannot be imported is a bug, and is shown as one."""
    _register(monkeypatch, tmp_path, "serve", "import clip_search.no_such_module\n")
    result = CliRunner().invoke(launcher.main, ["serve"])
    assert isinstance(result.exception, ModuleNotFoundError)


def test_unknown_command_is_a_usage_error() -> None:
    """A subcommand that nobody registered exits 2 and is named."""
    result = CliRunner().invoke(launcher.main, ["fly"])
    assert result.exit_code == 2
    assert "'fly'" in result.output
