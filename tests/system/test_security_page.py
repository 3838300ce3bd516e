"""The commands of `docs/operations/security.md`, run as they stand: what they make opens a server."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clip_search.client import Client
from clip_search.credentials import TlsOptions
from clip_search_server.access.keys import Role
from clip_search_server.rpc.permissions import PERMISSIONS
from demo.server_process import ServerProcess, program

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations" / "security.md").read_text(encoding="utf-8")


def test_the_roles_on_the_page_are_those_of_the_server() -> None:
    """Every method stands in the row of the least role that may call it."""
    for role in Role:
        (row,) = re.findall(rf"^\| `{role.name.lower()}` \| (.*) \|$", PAGE, re.MULTILINE)
        allowed = {path.rpartition("/")[2] for path, permission in PERMISSIONS.items() if permission.role is role}
        assert set(re.findall(r"`(\w+)`", row)) == allowed


@pytest.mark.system
def test_what_the_commands_make_opens_a_server(bundle: Path, tmp_path: Path) -> None:
    """Certificates for both sides and a key: with them a client is answered."""
    assert shutil.which("openssl"), "install openssl"
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    makers = [block for block in blocks if block.startswith("openssl")]
    (keys,) = [block for block in blocks if block.startswith("clip-search key new")]
    assert len(makers) == 2
    for block in makers:
        subprocess.run(["sh", "-euc", block], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    command = keys.replace("clip-search", program("clip-search"), 1)
    said = subprocess.run(["sh", "-euc", command], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60)
    key = said.stderr.rpartition(": ")[2].strip()
    options = ["--tls-certificate", "server.pem", "--tls-key", "server.key", "--tls-client-ca", "ca.pem"]
    options = [part if part.startswith("--") else str(tmp_path / part) for part in options]
    options += ["--api-keys", str(tmp_path / "keys.toml")]
    tls = TlsOptions(tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key", "search.example.org")
    with (
        ServerProcess.start(bundle, tmp_path / "data", log=tmp_path / "log", options=options) as server,
        Client(server.address, tls=tls, api_key=key, retry=None, timeout_seconds=30) as client,
    ):
        assert client.server_info().models
    assert "WARNING" not in (tmp_path / "log").read_text(encoding="utf-8")
