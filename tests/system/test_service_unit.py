"""The systemd unit, as systemd itself reads it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[2] / "docs/operations/clip-search.service"

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"),
]


def verify(path: Path) -> "subprocess.CompletedProcess[str]":
    """Have systemd read a unit."""
    command = ["systemd-analyze", "verify", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def installed(folder: Path, text: str) -> Path:
    """Write the unit with a program that is there in the place of the server's, which systemd looks for."""
    path = folder / UNIT.name
    path.write_text(re.sub(r"/opt/clip-search/bin/clip-search", "/bin/true", text), encoding="utf-8")
    return path


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """Neither an error nor a warning."""
    result = verify(installed(tmp_path, UNIT.read_text(encoding="utf-8")))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_systemd_would_tell_a_setting_that_it_does_not_know(tmp_path: Path) -> None:
    """So that silence means something."""
    text = UNIT.read_text(encoding="utf-8").replace("ProtectHome=", "ProtectHoem=")
    assert "ProtectHoem" in verify(installed(tmp_path, text)).stderr
