"""The serving benchmark's own arithmetic: rates, bars, memory; and a client process against a real server."""

import os
import time
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from bench.serving.bars import BARS, Bar, judged
from bench.serving.client import Report
from bench.serving.inputs import marked, pictures, texts
from bench.serving.load import Load, running_load, throughput
from bench.serving.memory import MemoryWatch, resident_mb
from demo.server_process import ServerProcess


def test_the_clients_own_time_is_taken_off() -> None:
    """Where clients took half of a machine for themselves, the server did its work in the other half."""
    report = Report(answered_ms=[1.0] * 100, cpu_seconds=10.0, seconds=10.0)
    assert throughput(report, cores=2) == pytest.approx(20.0)


def test_a_bar_is_judged_only_where_its_figure_was_measured() -> None:
    """Bounds hold either way round, and a part that was not run is neither passed nor missed."""
    assert Bar(1.0).passed(1.0)
    assert not Bar(1.0, at_most=False).passed(0.99)
    assert judged({"start_s": 5.0, "image_served_ratio": 0.95, "other": 1.0}) == {
        "image_served_ratio": True,
        "start_s": False,
    }
    assert judged({}) == {}
    assert set(judged(dict.fromkeys(BARS, 1.0))) == set(BARS)


def test_inputs_do_not_repeat() -> None:
    """No cache can answer them: texts of one client differ from each other and from those of another."""
    first, second = texts(1), texts(2)
    assert len({next(first) for _ in range(50)} | {next(second) for _ in range(50)}) == 100
    assert len(set(pictures(1, side=32, count=4))) == 4


def test_a_marked_picture_is_the_same_picture_in_other_bytes() -> None:
    """What recognizes contents by their digests has to embed it."""
    (picture,) = pictures(1, side=32, count=1)
    first, second = marked(picture, 1), marked(picture, 2)
    assert len({picture, first, second}) == 3
    assert Image.open(BytesIO(first)).tobytes() == Image.open(BytesIO(picture)).tobytes()


def test_memory_is_sampled() -> None:
    """What a process holds now is within what was seen of it."""
    with MemoryWatch(os.getpid()) as memory:
        time.sleep(0.5)
    assert memory.mean_mb(0, 1) <= memory.most_mb
    assert resident_mb(os.getpid()) == pytest.approx(memory.most_mb, rel=0.5)


@pytest.mark.slow
def test_client_processes_report_what_they_did(bundle: Path, tmp_path: Path) -> None:
    """Every kind of load reaches a real server and is answered; the clients say how much processor time they took."""
    loads = [
        Load("text", 1.0, processes=2, connections=2),
        Load("image", 1.0, connections=1, rate=20),
        Load("search", 1.0, connections=1, rate=20, one_by_one=True),
        Load("ingest", 1.0, connections=1),
    ]
    with (
        ServerProcess.start(bundle, tmp_path / "data", log=tmp_path / "log") as server,
        running_load(server.address, *loads) as clients,
    ):
        reports = [each.report() for each in clients]
    for report in reports:
        assert report.answered_ms
        assert report.other == {}
        assert report.cpu_seconds > 0


def test_no_two_clients_send_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes, loads and seeds each have texts of their own: a text that was sent before comes from the cache."""
    seeds: list[int] = []

    class Started:
        def __init__(self, commands: list[list[str]]) -> None:
            seeds.extend(int(command[command.index("--seed") + 1]) for command in commands)

        def go(self) -> None: ...

        def end(self) -> None: ...

    monkeypatch.setattr("bench.serving.load.ClientProcesses", Started)
    for seed in range(5):
        with running_load("nowhere", Load("text", 1, processes=4), Load("search", 1, processes=4), seed=seed):
            pass
    assert len(set(seeds)) == len(seeds) == 40
