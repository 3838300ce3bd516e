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


_DOWNLOAD_BYTES_MAX = 40_000_000


@pytest.mark.system
@pytest.mark.timeout(300)
def test_the_client_alone_is_a_small_download(tmp_path: Path) -> None:
    """`pip install .` without extras fetches less than 40 MB, the client's own wheel among it."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    gather = [str(environment / "bin/python"), "-m", "pip", "wheel", "--quiet", "--no-input", "--wheel-dir"]
    subprocess.run([*gather, str(tmp_path / "wheels"), str(ROOT)], check=True)
    sizes_bytes = {wheel.name: wheel.stat().st_size for wheel in (tmp_path / "wheels").glob("*.whl")}
    assert any(name.startswith("clip_search-") for name in sizes_bytes)
    assert sum(sizes_bytes.values()) < _DOWNLOAD_BYTES_MAX, sizes_bytes


@pytest.mark.system
@pytest.mark.timeout(300)
def test_the_client_can_be_used_without_extras(programs: Path) -> None:
    """What the package offers can be imported where nothing else is installed, and types are marked as such."""
    check = (
        "import clip_search; [getattr(clip_search, name) for name in clip_search.__all__]; "
        "import importlib.resources as r; print(r.files('clip_search').joinpath('py.typed').is_file())"
    )
    result = _run(programs / "python", "-c", check)
    assert result.stdout == "True\n", result.stderr


def _run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.system
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("serve", "server"),
        ("export", "export"),
        ("verify", "export"),
        ("gallery", "gallery"),
        ("up", "photos"),
        ("evaluate", "evaluation"),
    ],
)
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
