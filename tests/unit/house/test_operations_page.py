"""What `docs/operations.md` and the files beside it tell people to run exists: programs, options, settings, files."""

import functools
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from clip_search_server.commands import serve

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/operations.md"
FOLDER = ROOT / "docs/operations"
#: How each of our programs is run here; the options of others are not ours to check.
OURS = {
    "clip-search": "from clip_search.launcher import main; main()",
    "search_client": "from clip_search.cli import main; main()",
}
OTHERS = {"docker", "install", "python", "python3", "systemctl", "systemd-analyze", "useradd"}


def commands() -> list[str]:
    """Every line of the page's fenced blocks, continued lines joined, and what the unit starts."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    unit = (FOLDER / "clip-search.service").read_text(encoding="utf-8")
    return [*lines, *re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)]


@functools.cache
def help_of(program: str, *words: str) -> str:
    """What `--help` prints."""
    command = [sys.executable, "-c", OURS[program], *words, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, f"{program} {' '.join(words)}: {result.stderr}"
    return result.stdout


def offered(text: str) -> set[str]:
    """The options that a help text offers."""
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


def problems(line: str) -> list[str]:
    """Say what of a command line does not exist."""
    path, *words = shlex.split(line, comments=True)
    program = Path(path).name
    if program in OTHERS:
        return []
    if program not in OURS:
        return [f"{program}: no program that is known here"]
    listed = set(re.findall(r"^  ([a-z]+)\s", help_of(program).partition("Commands:")[2], re.MULTILINE))
    at = next((at for at, word in enumerate(words) if word in listed), None)
    if at is None:
        return [f"{line}: no subcommand of {program}"]
    subcommand = [words[at]]
    if "Commands:" in help_of(program, *subcommand):
        subcommand.append(words[at + 1])
    known = offered(help_of(program)) | offered(help_of(program, *subcommand))
    used = [word.partition("=")[0] for word in words if word.startswith("-")]
    return [f"{line}: {program} {' '.join(subcommand)} has no {option}" for option in used if option not in known]


def test_every_command_of_the_page_exists() -> None:
    """Program, subcommand and options, as the programs' own help has them."""
    lines = commands()
    assert sum(Path(shlex.split(line)[0]).name in OURS for line in lines) >= 12
    assert [problem for line in lines for problem in problems(line)] == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("clip-search bakcup --data x", "no subcommand"),
        ("clip-search backup --data x --two y", "has no --two"),
        ("clip-serach backup", "no program"),
        ("clip-search key new --nmae x", "key new has no --nmae"),
    ],
)
def test_a_wrong_command_is_noticed(line: str, problem: str) -> None:
    """Each kind of mistake, so that the test above can fail."""
    assert [problem in each for each in problems(line)] == [True]


def test_every_option_that_the_page_names_exists() -> None:
    """Options in the sentences and tables too."""
    ours = {"serve", "backup", "rebuild", "export", "reembed", "migrate"}
    known = set().union(*(offered(help_of("clip-search", word)) for word in ours)) | {"--tls-ca"}
    text = re.sub(r"^```\w*\n.*?^```", "", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = {option for code in re.findall(r"`([^`\n]+)`", text) for option in offered(code)}
    assert len(named) >= 8
    assert named - known == set()


def test_every_file_that_the_page_links_exists() -> None:
    """Relative to the page; of pages, sections are not looked up."""
    links = set(re.findall(r"\]\(([^)#:]+)\)", PAGE.read_text(encoding="utf-8")))
    assert len(links) >= 10
    assert {link for link in links if not (PAGE.parent / link).exists()} == set()


def test_the_example_settings_are_taken() -> None:
    """By the server's own reader, every key."""
    path = FOLDER / "serve.toml"
    result = CliRunner().invoke(serve, ["--config", str(path), "--print-config"])
    assert result.exit_code == 0, result.output
    printed, wanted = tomllib.loads(result.stdout), tomllib.loads(path.read_text(encoding="utf-8"))
    assert printed.keys() >= wanted.keys()
    assert result.stdout.count(str(path)) >= len(wanted)


def test_variables_of_the_container_files_are_settings() -> None:
    """Those of the server become options of `serve`, those of the health check are in the client's help."""
    named: set[str] = set()
    for name in ("cpu.Dockerfile", "cuda.Dockerfile", "compose.yaml"):
        text = (FOLDER / "containers" / name).read_text(encoding="utf-8")
        named |= set(re.findall(r"^\s+(?:ENV )?(CLIP_SEARCH_\w+)[=:]", text, re.MULTILINE))
    options = offered(help_of("clip-search", "serve"))
    prefix = "CLIP_SEARCH_SERVE_"
    server = {f"--{each.removeprefix(prefix).lower().replace('_', '-')}" for each in named if each.startswith(prefix)}
    assert len(server) >= 5
    assert server - options == set()
    health = help_of("search_client", "health")
    assert {each for each in named if not each.startswith(prefix) and f"${each}" not in health} == set()


def test_the_service_may_stop_in_its_own_time() -> None:
    """Both systemd and compose wait longer than calls in flight are given; the signal is the one that drains."""
    unit = (FOLDER / "clip-search.service").read_text(encoding="utf-8")
    compose = (FOLDER / "containers/compose.yaml").read_text(encoding="utf-8")
    drain_seconds = tomllib.loads((FOLDER / "serve.toml").read_text(encoding="utf-8"))["drain_seconds"]
    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert stop is not None
    assert int(stop[1]) >= 2 * drain_seconds
    assert "\nKillSignal=SIGTERM\n" in unit
    assert "\n    stop_grace_period: 2m\n" in compose


def test_the_two_images_differ_in_base_packages_and_device_alone() -> None:
    """So that what the tests run of the one counts for the other."""
    lines = [
        (FOLDER / f"containers/{name}.Dockerfile").read_text(encoding="utf-8").splitlines() for name in ("cpu", "cuda")
    ]
    only = [[line for line in some if line not in others] for some, others in (lines, lines[::-1])]
    kinds = r"#|FROM |ARG EXTRAS=|    && apt-get install |    CLIP_SEARCH_SERVE_DEVICE=cuda "
    assert [line for some in only for line in some if not re.match(kinds, line)] == []
