"""The load test against a server that answers at once, one that fails, and none at all."""

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from clip_search.v1 import search_pb2, search_pb2_grpc
from loadtest.run import LoadTestError, read_figures, run_locust

_HEADER = "Type,Name,Request Count,Failure Count,Requests/s,50%,99%\n"


class _Answers(search_pb2_grpc.SearchServiceServicer):
    """Answers every search with one hit, or fails every one."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.texts: list[str] = []

    def Search(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.texts.append(request.parts[0].content.text)
        if self.fails:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
        return search_pb2.SearchResponse(hits=[search_pb2.Hit(id="red-apple_1F34E.png", score=0.3)])

    def Classify(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        raise NotImplementedError


@contextmanager
def _served(answers: _Answers) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    search_pb2_grpc.add_SearchServiceServicer_to_server(answers, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.slow
def test_users_search_by_names_over_grpc_and_leave_a_report(tmp_path: Path) -> None:
    """A run against a healthy server counts its requests, fails none of them and writes an HTML report."""
    answers = _Answers()
    with _served(answers) as host:
        figures = run_locust(host, tmp_path, seconds=2, users=2)
    total = figures[-1]
    assert total.requests > 0
    assert 0 <= len(answers.texts) - total.requests <= 2  # each user may be stopped amid its last call
    assert total.failures == 0
    assert {row.name for row in figures} >= {"Search (any name)", "Aggregated"}
    assert "<html" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_failing_server_fails_the_run(tmp_path: Path) -> None:
    """A run whose requests fail is an error that says how many failed, and with which status."""
    with _served(_Answers(fails=True)) as host, pytest.raises(LoadTestError, match="requests failed") as caught:
        run_locust(host, tmp_path, seconds=1, users=1)
    assert "RESOURCE_EXHAUSTED" in str(caught.value)


@pytest.mark.slow
def test_a_server_that_is_not_there_fails_the_run(tmp_path: Path) -> None:
    """A run against a port nobody listens on is an error, and it stops by itself."""
    with _served(_Answers()) as host:
        pass
    with pytest.raises(LoadTestError, match="UNAVAILABLE"):
        run_locust(host, tmp_path, seconds=1, users=1)


@pytest.mark.slow
def test_a_run_without_requests_is_no_success(tmp_path: Path) -> None:
    """When no user made a request, Locust exits with an error instead of reporting that nothing failed."""
    idle = tmp_path / "idle.py"
    idle.write_text(
        "from loadtest.locustfile import *\n"
        "class Idle(User):\n"
        "    wait_time = between(30, 30)\n"
        "    @task\n"
        "    def wait(self): pass\n"
        "Searcher.abstract = True\n"
    )
    with pytest.raises(LoadTestError, match="no request was made"):
        run_locust("127.0.0.1:1", tmp_path, seconds=1, users=1, locustfile=idle)


def test_a_table_without_a_total_is_no_result(tmp_path: Path) -> None:
    """A table that was cut short is reported, not read as a success."""
    table = tmp_path / "figures.csv"
    table.write_text(_HEADER + "gRPC,Search (any name),10,0,5.0,3,9\n")
    with pytest.raises(LoadTestError, match="cut short"):
        read_figures(table)


def test_the_last_row_is_the_total(tmp_path: Path) -> None:
    """Figures are read by column, and a percentile that Locust could not tell counts as zero."""
    table = tmp_path / "figures.csv"
    table.write_text(_HEADER + "gRPC,Search (any name),10,1,5.0,3,9\n,Aggregated,12,1,6.5,N/A,N/A\n")
    first, total = read_figures(table)
    assert (first.name, first.requests, first.failures, first.p50_ms, first.p99_ms) == (
        "Search (any name)",
        10,
        1,
        3,
        9,
    )
    assert (total.requests, total.rate, total.p50_ms) == (12, 6.5, 0)
