"""Log lines as text and as JSON, with the id of the request that they belong to."""

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context

import pytest

from clip_search_server.logs import REQUEST_ID, LogFormat, start_logging
from clip_search_server.spans import within
from tests.recorded_spans import RecordedSpan

LOG = logging.getLogger("clip_search_server.test")


@pytest.fixture
def started() -> Iterator[Callable[[LogFormat], io.StringIO]]:
    """A maker of logs of the whole process; what was set up before comes back."""
    root = logging.getLogger()
    level = root.level
    before: list[logging.Handler] = []

    def start(log_format: LogFormat) -> io.StringIO:
        before[:] = root.handlers
        root.handlers.clear()  # Else what is set up stays.
        stream = io.StringIO()
        start_logging("debug", log_format, stream)
        return stream

    yield start
    root.handlers[:] = before
    root.setLevel(level)


def _within(request_id: str, act: Callable[[], None]) -> None:
    def run() -> None:
        REQUEST_ID.set(request_id)
        act()

    copy_context().run(run)


def test_text_lines_end_with_the_request(started: Callable[[LogFormat], io.StringIO]) -> None:
    """Within a request its id stands behind the message; outside there is nothing."""
    stream = started("text")
    _within("abc", lambda: LOG.info("inside"))
    LOG.info("outside")
    inside, outside = stream.getvalue().splitlines()
    assert inside.endswith("INFO clip_search_server.test: inside request=abc")
    assert outside.endswith("outside")


def test_json_lines_hold_what_a_machine_looks_for(started: Callable[[LogFormat], io.StringIO]) -> None:
    """Time, level, logger, message, the request's id and a call's figures; nothing else that records carry."""
    stream = started("json")
    _within(
        "abc", lambda: LOG.debug("%s ü\n", 1, extra={"method": "/M", "code": "OK", "milliseconds": 2.5, "key": "k"})
    )
    (text,) = stream.getvalue().splitlines()
    line = json.loads(text)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "DEBUG",
        "logger": "clip_search_server.test",
        "message": "1 ü\n",
        "request_id": "abc",
        "method": "/M",
        "code": "OK",
        "milliseconds": 2.5,
    }


def test_json_lines_hold_the_trace_that_they_belong_to(started: Callable[[LogFormat], io.StringIO]) -> None:
    """Where the request is traced, and only there; lines of text have none."""
    json_stream = started("json")
    with within(RecordedSpan()):
        LOG.info("traced")
    LOG.info("not traced")
    traced, not_traced = map(json.loads, json_stream.getvalue().splitlines())
    assert traced["trace_id"] == RecordedSpan().trace_id
    assert "trace_id" not in not_traced


def test_json_lines_hold_the_trace_of_an_error(started: Callable[[LogFormat], io.StringIO]) -> None:
    """On one line, as all else."""
    stream = started("json")
    LOG.error("failed", exc_info=ValueError("13"))
    (text,) = stream.getvalue().splitlines()
    assert json.loads(text)["exception"].splitlines()[-1] == "ValueError: 13"


def test_a_thread_that_is_given_the_context_logs_the_request(started: Callable[[LogFormat], io.StringIO]) -> None:
    """As those of reads, writes and decoding are; a thread of its own logs none."""
    stream = started("json")

    def spawn() -> None:
        for target in (copy_context().run, lambda act: act()):
            thread = threading.Thread(target=target, args=(lambda: LOG.info("there"),))
            thread.start()
            thread.join()

    _within("abc", spawn)
    given, own = map(json.loads, stream.getvalue().splitlines())
    assert given["request_id"] == "abc"
    assert "request_id" not in own
