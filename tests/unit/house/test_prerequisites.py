"""`scripts/prerequisites.py` names what is missing and how to get it."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "prerequisites.py"


@pytest.fixture
def prerequisites() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("prerequisites", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_missing_compiler_is_named_with_its_apt_line() -> None:
    """Without a C++ compiler the script exits 1 within two seconds and says which package to install."""
    environment = {**os.environ, "CXX": "no-such-compiler"}
    result = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, check=False, timeout=2
    )
    assert result.returncode == 1
    assert "C++ compiler" in result.stderr
    assert "apt-get install g++" in result.stderr


def test_who_only_uses_the_project_needs_no_compiler() -> None:
    """The demo is set up from wheels alone."""
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--without-compiler"],
        env={**os.environ, "CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=False,
        timeout=2,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_missing_headers_are_named(prerequisites: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without Python.h the script names the -dev package of the running Python."""
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    (sentence, remedy), *_ = [part for part in prerequisites.missing_parts() if "headers" in part[0]]
    assert str(tmp_path / "Python.h") in sentence
    assert remedy == f"apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-dev"


def test_missing_venv_module_is_named(prerequisites: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ensurepip the script names the -venv package."""
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert any("-venv" in remedy for _, remedy in prerequisites.missing_parts())


def test_old_python_is_refused(prerequisites: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old Python is told which version is needed, and nothing else."""
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    ((sentence, remedy),) = prerequisites.missing_parts()
    assert "is Python 3.9; this project needs Python 3.11" in sentence
    assert "PYTHON=" in remedy
