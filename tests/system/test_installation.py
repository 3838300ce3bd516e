"""Installing the distribution as a user does, into an environment of its own. Needs a package index."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has the distribution without extras."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    install = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "--no-input", str(ROOT)]
    subprocess.run(install, check=True)
    return environment / "bin"


def _run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.system
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("command", "extra"), [("serve", "server"), ("export", "export"), ("verify", "export")])
def test_commands_without_their_extra_name_it(programs: Path, command: str, extra: str) -> None:
    """Without extras, a command that needs one prints the pip line and exits 2."""
    result = _run(programs / "clip-search", command)
    assert result.returncode == 2
    assert f"pip install 'clip-search[{extra}]'" in result.stderr


@pytest.mark.system
@pytest.mark.timeout(300)
@pytest.mark.parametrize("program", ["clip-search", "search_client"])
def test_programs_explain_themselves_without_extras(programs: Path, program: str) -> None:
    """Both programs print their help in an installation of the client alone."""
    result = _run(programs / program, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: ")
