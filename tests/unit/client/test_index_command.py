import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status

from clip_search.ingest import IngestBounds
from tests.unit.client.conftest import Program
from tests.unit.client.fake_server import FakeServer, invalid, refused, stored

WINDOW = IngestBounds().items_in_flight_max


def test_pictures_are_stored_with_ids_and_attributes(
    server: FakeServer, program: Program, photos: Callable[..., Path], png: bytes
) -> None:
    """Every picture below the folder is sent with its bytes, its absolute path and its file's name."""
    folder = photos("a.png", "2024/beach.jpg")
    result = program("index", str(folder))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("2 pictures stored in ")
    assert result.stderr == ""
    item = server.items["photos/2024/beach.jpg"]
    assert item.content.image == png
    attributes = {name: value.string_value for name, value in item.attributes.items()}
    assert {name: value for name, value in attributes.items() if value} == {
        "path": str(folder / "2024" / "beach.jpg"),
        "file_name": "beach.jpg",
        "source": str(folder),
    }
    numbers = {name: value.int_value for name, value in item.attributes.items() if value.HasField("int_value")}
    assert numbers == {"size_bytes": len(png), "width": 1, "height": 1}


def test_more_pictures_than_the_window_holds(server: FakeServer, program: Program, photos: Callable[..., Path]) -> None:
    """The stream goes on as answers make room."""
    folder = photos(*(f"{number}.png" for number in range(300)))
    assert program.document("index", str(folder))["stored"] == 300
    assert len(server.items) == 300


def test_bad_pictures_are_reported_and_passed_over(
    server: FakeServer, program: Program, photos: Callable[..., Path]
) -> None:
    """What the server refuses and what cannot be read is told with path and reason; the rest is stored; exit code 1."""
    folder = photos("a.png", "bad.png", "c.png")
    (folder / "gone.png").symlink_to("nowhere.png")

    def refuse_bad(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            if request.item.id == "photos/bad.png":
                yield refused(request, invalid("item.content.image: no picture", "item.content.image", "no picture"))
            else:
                yield stored(request, 1)

    server.ingest_behaviour = refuse_bad
    result = program("index", str(folder))
    assert result.exit_code == 1
    assert result.stdout.startswith("2 pictures stored, 2 failed in ")
    assert f"failed: {folder / 'bad.png'}: item.content.image: no picture\n" in result.stderr
    assert f"failed: {folder / 'gone.png'}: No such file or directory\n" in result.stderr
    assert result.stderr.endswith("error: 2 pictures could not be stored\n")

    result = program("--json", "index", str(folder))
    errors = [json.loads(line)["error"] for line in result.stderr.splitlines()]
    assert {"code": "FILE", "message": "No such file or directory", "path": str(folder / "gone.png")} in errors
    assert errors[-1] == {"code": "INCOMPLETE", "message": "2 pictures could not be stored"}
    assert json.loads(result.stdout)["failed"] == 2


def test_a_picture_too_large_for_the_server_is_not_sent(
    server: FakeServer, program: Program, photos: Callable[..., Path]
) -> None:
    """One large file is passed over instead of ending the stream for all."""
    server.limits.image_bytes_max = 1_000
    folder = photos("a.png")
    (folder / "large.png").write_bytes(bytes(2_000))
    result = program("index", str(folder))
    assert result.exit_code == 1
    assert "large.png: the file is too large: 2,000 bytes, and the server takes at most 1,000" in result.stderr
    assert list(server.items) == ["photos/a.png"]


def test_hostile_file_names_are_shown_not_obeyed(program: Program, photos: Callable[..., Path]) -> None:
    """A file name cannot steer the terminal."""
    folder = photos()
    (folder / "\x1b[2J[red]\n.png").symlink_to("nowhere.png")
    result = program("index", str(folder))
    assert r"\x1b[2J[red]\n.png" in result.stderr
    assert "\x1b" not in result.output


def test_a_folder_without_pictures_is_an_error(program: Program, photos: Callable[..., Path]) -> None:
    """Nothing to do is most likely a mistake, so it is said."""
    folder = photos("notes.txt")
    result = program("index", str(folder))
    assert result.exit_code == 1
    assert result.stderr == f"error: no pictures in {folder}\n"


def test_folders_that_would_share_ids_are_a_usage_error(program: Program, tmp_path: Path) -> None:
    """Two folders of one name exit with 2 before anything is sent."""
    for parent in ("old", "new"):
        (tmp_path / parent / "photos").mkdir(parents=True)
    result = program("index", str(tmp_path / "old" / "photos"), str(tmp_path / "new" / "photos"))
    assert result.exit_code == 2
    assert "have the same name" in result.stderr


def test_a_lost_server_is_explained_with_what_is_safe(
    server: FakeServer, program: Program, photos: Callable[..., Path]
) -> None:
    """A stream that breaks says how many pictures are stored, how many may be, and how to go on."""
    folder = photos(*(f"{number:03}.png" for number in range(200)))

    def break_off(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            if request.index < 10:
                yield stored(request, 1)
            if request.index == WINDOW + 9:  # sent only after the ten answers have been read
                unavailable = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="stopping")
                context.abort_with_status(rpc_status.to_status(unavailable))

    server.ingest_behaviour = break_off
    result = program("index", str(folder), "--resume-seconds", "0")
    assert result.exit_code == 1
    assert result.stdout.startswith("10 pictures stored in ")
    assert "more may be. Run the same command again" in result.stderr
    assert result.stderr.endswith(f"error: {server.address} is not available: stopping\n")
    document = json.loads(program("--json", "index", str(folder), "--resume-seconds", "0").stdout)
    assert (document["stored"], document["complete"]) == (10, False)
    assert document["unanswered"] == WINDOW


def test_no_server_is_known_before_anything_is_read(photos: Callable[..., Path]) -> None:
    """Without a server the error is the same as for every command."""
    result = Program("127.0.0.1:1")("index", str(photos("a.png")))
    assert result.exit_code == 1
    assert "cannot reach 127.0.0.1:1" in result.stderr


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Programs started meanwhile heed SIGINT, even when a script started these tests in its background.

    A shell without job control has such children ignore it, and they pass that on to theirs; a handler they do not.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupting_ends_cleanly(server: FakeServer, program: Program, photos: Callable[..., Path]) -> None:
    """Ctrl-C stops the stream, tells what is stored, and leaves no traceback."""
    folder = photos(*(f"{number:03}.png" for number in range(200)))
    reached = threading.Event()
    cancelled = threading.Event()

    def stop_answering(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        context.add_callback(cancelled.set)
        for request in requests:
            if request.index < 20:
                yield stored(request, 1)
            if request.index == WINDOW + 19:  # sent only after the twenty answers have been read
                reached.set()
                cancelled.wait(timeout=60)
                return

    server.ingest_behaviour = stop_answering
    with program.start("index", str(folder)) as process:
        assert reached.wait(timeout=60)
        os.kill(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout.startswith("20 pictures stored in ")
    assert "Run the same command again to go on" in stderr
    assert stderr.endswith("error: interrupted\n")
    assert "Traceback" not in stderr
    assert cancelled.wait(timeout=60)
