"""Users against a server of known slowness: what Locust counts is what was."""

import io
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

from clip_search.v1 import search_pb2, search_pb2_grpc
from loadtest.locust_process import LoadTestError, run_locust
from loadtest.names import SEARCH_TEXT, SEARCH_TYPING
from loadtest.outcome import Outcome, Requests
from loadtest.scenario import Scenario

_HELD_SECONDS = 0.4
_USERS = 30


class _Searches(search_pb2_grpc.SearchServiceServicer):
    """Holds each search for a while, refuses those for whole texts, and counts both."""

    def __init__(self) -> None:
        self.held = 0
        self.refused = 0

    def Search(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        if request.parts[0].content.text.endswith("!"):
            self.refused += 1
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
        self.held += 1
        time.sleep(_HELD_SECONDS)
        return search_pb2.SearchResponse(hits=[search_pb2.Hit(id="a", score=0.3)])

    def Classify(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        raise NotImplementedError


def _scenario(host: str, folder: Path, **changes: Any) -> Scenario:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    (folder / "one.png").write_bytes(stream.getvalue())
    (folder / "texts").write_text("a long text!\nanother text!\n")
    fields = {"profile_name": "search", "users": _USERS, "seconds": 4, "texts": str(folder / "texts")}
    return Scenario(host=host, pictures=str(folder), **{**fields, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Outcome, _Searches]]:
    """What thirty users found in four seconds, and what the server knows of it."""
    folder, searches = tmp_path_factory.mktemp("users"), _Searches()
    server = grpc.server(futures.ThreadPoolExecutor(2 * _USERS))
    search_pb2_grpc.add_SearchServiceServicer_to_server(searches, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield run_locust(_scenario(f"127.0.0.1:{port}", folder), folder), searches
    finally:
        server.stop(None).wait()


def _row(outcome: Outcome, name: str) -> Requests:
    return next(row for row in outcome.requests if row.name == name)


@pytest.mark.slow
def test_users_do_not_wait_for_each_other(run: tuple[Outcome, _Searches]) -> None:
    """Thirty users who are held at the same time take as long as one: nothing in the process lines them up."""
    outcome, _searches = run
    typing = _row(outcome, SEARCH_TYPING)
    assert typing.errors == 0
    median_ms = typing.percentile_ms(50)
    assert median_ms is not None
    # In line, thirty would take twelve seconds; the rest is room for a busy machine.
    assert 1000 * _HELD_SECONDS <= median_ms < 4000 * _HELD_SECONDS


@pytest.mark.slow
def test_refusals_are_counted_apart_and_have_no_time(run: tuple[Outcome, _Searches]) -> None:
    """RESOURCE_EXHAUSTED is neither an error nor an answer, is not tried again, and makes no percentile better."""
    outcome, searches = run
    text = _row(outcome, SEARCH_TEXT)
    assert text.refused > 0
    assert (text.answered, text.errors, text.percentile_ms(50)) == (0, 0, None)
    assert 0 <= searches.refused - text.refused <= _USERS
    assert 0 <= searches.held - _row(outcome, SEARCH_TYPING).sent <= _USERS


@pytest.mark.slow
def test_the_run_leaves_figures_over_time(run: tuple[Outcome, _Searches]) -> None:
    """There is about a row a second, with the users of the shape."""
    outcome, _searches = run
    assert len(outcome.moments) >= 2
    assert max(moment.users for moment in outcome.moments) == _USERS
    assert list(outcome.stalls_ms) == ["this process"]
    assert any("UNIMPLEMENTED" in failure.message for failure in outcome.failures)  # Connect asks for the health


@pytest.mark.slow
def test_a_load_test_that_does_not_work_is_no_success(tmp_path: Path) -> None:
    """When its own code fails, that is told instead of an empty result."""
    scenario = _scenario("127.0.0.1:1", tmp_path, users=1, seconds=2)
    (tmp_path / "one.png").unlink()
    with pytest.raises(LoadTestError, match="holds no PNG"):
        run_locust(scenario, tmp_path)
