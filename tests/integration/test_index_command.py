"""`search_client index` against a real server: killed and started again, moved, pruned, and what archives give."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.bench_index_command import embedded, metrics_url
from clip_search.client import Client
from clip_search.filter_text import parse_filter
from demo.server_process import ServerProcess
from tests.integration.conftest import Png

PROGRAM = "from clip_search.cli import main; main()"
PICTURES = 300


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server writes."""
    return tmp_path_factory.mktemp("index") / "log"


@pytest.fixture(scope="module")
def own_server(bundle: Path, log: Path) -> Iterator[ServerProcess]:
    """A server of these tests alone, which tells its metrics."""
    options = ["--metrics-listen", "127.0.0.1:0"]
    with ServerProcess.start(bundle, log.parent / "data", log=log, options=options) as running:
        yield running


@pytest.fixture
def collection(own_server: ServerProcess, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of a collection of the test's own."""
    name = f"c{abs(hash(request.node.name)) % 10**9}"
    with Client(own_server.address, collection=name, timeout_seconds=60) as client:
        client.create_collection(name)
        yield client


@pytest.fixture
def photos(tmp_path: Path, png: Png) -> Path:
    """A folder of different pictures."""
    folder = tmp_path / "photos"
    for number in range(PICTURES):
        path = folder / f"{number // 100}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png((number % 256, 255 - number % 256, number // 256), (64, 48)))
    return folder


def start(client: Client, *arguments: str) -> "subprocess.Popen[str]":
    """Start the command."""
    options = ["--server", client.server, "--collection", client.stats().collection, "--json", "index", *arguments]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(client: Client, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Run the command and give what it prints."""
    with start(client, *arguments) as process:
        stdout, stderr = process.communicate(timeout=100)
    assert process.returncode == code, stderr
    document: dict[str, Any] = json.loads(stdout)
    return document


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_after_a_stop_it_goes_on_where_it_was(collection: Client, photos: Path, number: signal.Signals) -> None:
    """What was stored is skipped, the rest is stored, and nothing is there twice."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background may ignore it
    with start(collection, str(photos)) as process:
        signal.signal(signal.SIGINT, before)
        deadline = time.monotonic() + 60
        while collection.stats().items < PICTURES // 4 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, number)
        process.communicate(timeout=60)
    if number == signal.SIGINT and process.returncode != 0:
        assert process.returncode == 130
    at_stop = collection.stats().items
    going_on = run(collection, str(photos))
    assert going_on["skipped"] >= at_stop
    assert going_on["skipped"] + going_on["stored"] == PICTURES
    ids = [item.id for item in collection.every_item()]
    assert len(ids) == len(set(ids)) == PICTURES
    assert run(collection, str(photos))["skipped"] == PICTURES


def test_moved_pictures_keep_their_vectors(collection: Client, photos: Path, log: Path) -> None:
    """A folder under another name is stored anew without embedding anything; the old items can be pruned by hand."""
    assert run(collection, str(photos))["stored"] == PICTURES
    before = embedded(metrics_url(log))
    moved = photos.rename(photos.with_name("moved"))
    assert run(collection, str(moved))["stored"] == PICTURES
    assert collection.stats().items == 2 * PICTURES
    assert embedded(metrics_url(log)) == before
    gone = parse_filter(f"source = {json.dumps(str(photos))}")
    assert collection.delete_matching(gone).deleted == PICTURES


def test_vanished_pictures_are_pruned(collection: Client, photos: Path) -> None:
    """A few at once, many only with --yes; another source keeps its own."""
    archive = photos.parent / "a.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(photos / "0" / "000.png", "x.png")
    run(collection, str(photos), str(archive))
    for number in range(10):
        (photos / "0" / f"{number:03}.png").unlink()
    assert run(collection, str(photos), "--prune")["pruned"] == 10
    for path in (photos / "1").iterdir():
        path.unlink()
    assert run(collection, str(photos), "--prune", code=1)["pruned"] == 0
    assert run(collection, str(photos), "--prune", "--yes")["pruned"] == 100
    assert collection.stats().items == PICTURES - 110 + 1


def test_what_pictures_tell_can_be_filtered_by(collection: Client, tmp_path: Path) -> None:
    """Date, camera and size become attributes, beside those of a list and of the command line."""
    image = pytest.importorskip("PIL.Image", reason="the server needs it too")
    exif = image.Exif()
    exif[0x0110], exif[0x0132] = "EOS 5D", "2024:05:31 12:30:00"
    buffer = io.BytesIO()
    image.new("RGB", (40, 30), "red").save(buffer, "JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    (tmp_path / "list.csv").write_text("path,caption,year\na.jpg,a red wall,2024\n")
    assert run(collection, str(tmp_path / "list.csv"), "--attribute", "album=Holiday")["stored"] == 1
    wanted = 'camera = "EOS 5D" and taken >= 2024-05-31T12:00:00Z and width = 40 and year = 2024 and album = Holiday'
    (found,) = collection.list_items(filter=parse_filter(wanted)).items
    assert (found.id, found.text) == ("list.csv/a.jpg", "a red wall")
    assert run(collection, str(tmp_path / "list.csv"), "--attribute", "album=Holiday")["skipped"] == 1
