"""Load tests of real servers: green ones, hopeless ones, and one over TLS with keys and several processes."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clip_search.client import Client
from clip_search.contents import Image, Item
from clip_search.credentials import TlsOptions
from demo.server_process import ServerProcess, metrics_url
from loadtest import run
from tests.certificates import Authority, Files
from tests.integration.conftest import Png
from tests.integration.keys import Keys

pytestmark = pytest.mark.slow

_COLOURS = ("red", "green", "blue", "white", "black", "yellow")
_SHORT = ["--seconds", "4", "--users", "5", "--profile", "plateau"]


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory, png: Png) -> list[str]:
    """Options that name what users send."""
    folder = tmp_path_factory.mktemp("sent")
    for colour in _COLOURS:
        (folder / f"{colour}.png").write_bytes(png(colour))
    (folder / "texts").write_text("\n".join(f"a {colour} square" for colour in _COLOURS))
    return ["--pictures", str(folder), "--texts", str(folder / "texts")]


@pytest.fixture(scope="module")
def secured(bundle: Path, tmp_path_factory: pytest.TempPathFactory, png: Png) -> Iterator["_Secured"]:
    """A server with TLS, keys, metrics and a few pictures."""
    folder = tmp_path_factory.mktemp("secured")
    authority, files, keys = Authority(folder / "authority"), Files(folder / "server"), Keys(folder / "keys.json")
    files.write(authority.issue())
    for name, role in (("owner", "admin"), ("guest", "read")):
        keys.add(name, role)
        (folder / name).write_text(keys.texts[name])
    keys.write()
    log = folder / "log"
    options = [*files.options, "--api-keys", str(keys.path), "--metrics-listen", "127.0.0.1:0"]
    with ServerProcess.start(bundle, folder / "data", log=log, options=options) as server:
        found = _Secured(server.address, metrics_url(log), authority.file, folder)
        with found.client("owner") as client:
            client.upsert([Item(colour, Image(png(colour))) for colour in _COLOURS])
        yield found


class _Secured:
    """How that server is reached."""

    def __init__(self, address: str, metrics: str, ca: Path, folder: Path) -> None:
        self.address, self.metrics, self.ca, self.folder = address, metrics, ca, folder

    @contextmanager
    def client(self, name: str) -> Iterator[Client]:
        """Give a client with somebody's key."""
        with Client(self.address, tls=TlsOptions(self.ca), api_key=(self.folder / name).read_text()) as client:
            yield client

    def options(self, name: str) -> list[str]:
        """Return what the load test is told, with somebody's key."""
        return ["--host", self.address, "--ca", str(self.ca), "--api-key-file", str(self.folder / name)]


def test_a_green_run_over_tls_with_a_key_and_two_processes(
    secured: _Secured, sent: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It exits with 0, leaves report and tables with the server's own figures, and no collection of its own."""
    more = ["--processes", "2", "--metrics", secured.metrics, "--output", str(tmp_path)]
    assert run.main([*secured.options("owner"), *_SHORT, *sent, *more]) == 0, capsys.readouterr().out
    with (tmp_path / "requests.csv").open(encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert {"Connect", "Search: typing", "Classify", "Ingest: item", "all"} <= set(rows)
    assert int(rows["Connect"]["answered"]) == 5
    assert all(row["errors"] == "0" for row in rows.values())
    with (tmp_path / "server.csv").open(encoding="utf-8") as file:
        seen = list(csv.DictReader(file))
    assert any(float(row["image_batch"] or 0) > 0 for row in seen)
    assert any(float(row["resident_mib"] or 0) > 0 for row in seen)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The run kept to its SLO." in page
    assert "Inputs in a batch, mean" in page
    assert "<html" in (tmp_path / "locust.html").read_text(encoding="utf-8")
    with secured.client("owner") as client:
        assert [each.name for each in client.list_collections()] == ["default"]


def test_an_impossible_slo_fails_and_says_by_how_much(
    secured: _Secured, sent: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that works, but slower than allowed, exits with 1 and names the row; a key to read is enough to search."""
    slo = tmp_path / "slo.toml"
    slo.write_text('[requests."Search: typing"]\np50_ms = 0.001\nper_second_min = 0.01\n')
    load = ["--profile", "search", "--users", "2", "--seconds", "3", "--slo", str(slo), "--output", str(tmp_path)]
    assert run.main([*secured.options("guest"), *sent, *load]) == 1
    printed = capsys.readouterr().out
    assert "1 of 2 bounds" in printed
    assert "Search: typing: median is" in printed
    assert "above the 0.001 ms that are allowed" in printed
    assert "The run missed 1 of 2 bounds." in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_who_may_not_store_is_told_what_to_do(
    secured: _Secured, sent: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any user comes: storing takes an admin's key, and a profile without it is named."""
    assert run.main([*secured.options("guest"), *_SHORT, *sent, "--output", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "takes a key with the role admin" in printed
    assert "--profile search" in printed


def test_an_empty_collection_is_told_before_users_come(
    secured: _Secured, sent: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Searches would find nothing, which no user of a real service sees: that is an error with the way out."""
    with secured.client("owner") as client:
        client.create_collection("nothing-yet")
        options = [*secured.options("guest"), *sent, "--profile", "search", "--output", str(tmp_path)]
        assert run.main([*options, "--collection", "nothing-yet"]) == 1
        assert "is empty" in capsys.readouterr().out
        client.delete_collection("nothing-yet")
    assert run.main([*options, "--collection", "nothing-yet"]) == 1
    assert "no collection" in capsys.readouterr().out
