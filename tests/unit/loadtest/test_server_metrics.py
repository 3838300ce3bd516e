"""Figures computed from what a server's metrics said at two moments."""

import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from loadtest.server_metrics import COLUMNS, MetricsError, Reading, Watch, read_metrics, rows, write_table

_BY_KEY = {column.key: column for column in COLUMNS}


def _reading(at: float, samples: Mapping[str, float]) -> Reading:
    """Make a reading of samples as `name{key=value}`."""
    found = []
    for key, value in samples.items():
        name, _, labels = key.rstrip("}").partition("{")
        pairs = [pair.split("=") for pair in labels.split(",") if pair]
        found.append((name, dict(pairs), value))
    return Reading(at, found)


_BEFORE = _reading(
    100.0,
    {
        "clip_search_calls_total{method=a,code=OK}": 10,
        "clip_search_batch_inputs_sum{tower=text}": 100,
        "clip_search_batch_inputs_count{tower=text}": 50,
        "clip_search_queue_wait_seconds_sum{tower=text}": 1.0,
        "clip_search_queue_wait_seconds_count{tower=text}": 10,
        "process_cpu_seconds_total": 5.0,
        "process_resident_memory_bytes": 1 << 20,
    },
)
_NOW = _reading(
    102.0,
    {
        "clip_search_calls_total{method=a,code=OK}": 16,
        "clip_search_calls_total{method=b,code=OK}": 2,
        "clip_search_calls_total{method=a,code=RESOURCE_EXHAUSTED}": 4,
        "clip_search_batch_inputs_sum{tower=text}": 130,
        "clip_search_batch_inputs_count{tower=text}": 60,
        "clip_search_queue_wait_seconds_sum{tower=text}": 1.5,
        "clip_search_queue_wait_seconds_count{tower=text}": 20,
        "clip_search_open_calls": 3,
        "process_cpu_seconds_total": 8.0,
        "process_resident_memory_bytes": 3 << 20,
    },
)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("calls_per_second", 6.0),
        ("refused_per_second", 2.0),
        ("failed_per_second", 0.0),
        ("text_batch", 3.0),
        ("text_wait_ms", 50.0),
        ("image_batch", None),
        ("open_calls", 3.0),
        ("cpu_cores", 1.5),
        ("resident_mib", 3.0),
        ("text_cache_hit_percent", None),
    ],
)
def test_figures_are_those_of_the_time_between(key: str, expected: float | None) -> None:
    """Counters give rates, histograms means, gauges what they are; where nothing happened there is nothing to tell."""
    found = _BY_KEY[key].value(_BEFORE, _NOW)
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_server_that_was_started_anew_counts_from_zero() -> None:
    """A counter that shrank gives what it counts now, never a negative rate."""
    before = _reading(0, {"clip_search_calls_total{code=OK}": 100})
    now = _reading(2, {"clip_search_calls_total{code=OK}": 8})
    assert _BY_KEY["calls_per_second"].value(before, now) == 4


def test_the_table_has_a_row_for_each_two_readings(tmp_path: Path) -> None:
    """Seconds count from the beginning of the run, and what is not known is empty."""
    write_table([_BEFORE, _NOW], 100.5, tmp_path / "server.csv")
    head, row = (tmp_path / "server.csv").read_text().splitlines()
    assert head.split(",")[:2] == ["seconds", "calls_per_second"]
    assert row.split(",")[:2] == ["1.5", "6.0"]
    assert ",," in row
    assert rows([_BEFORE]) == []


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[bytes]]]:
    """An HTTP server and the texts that it gives, one after the other; after the last it fails."""
    texts: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if texts else 500)
            self.end_headers()
            if texts:
                self.wfile.write(texts.pop(0))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/metrics", texts
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_watch_reads_at_the_beginning_and_at_the_end(endpoint: tuple[str, list[bytes]]) -> None:
    """Even the shortest run has two readings, and a failure is counted, not fatal."""
    url, texts = endpoint
    texts += [b"clip_search_open_calls 1.0\n", b"clip_search_open_calls 2.0\n"]
    watch = Watch(url)
    with watch.running():
        pass
    assert [reading.sum("clip_search_open_calls") for reading in watch.readings] == [1, 2]
    assert watch.failures == 0
    texts.append(b"clip_search_open_calls 1.0\n")
    failing = Watch(url)
    with failing.running():
        pass
    assert (len(failing.readings), failing.failures) == (1, 1)


def test_an_address_without_metrics_is_refused(endpoint: tuple[str, list[bytes]]) -> None:
    """No answer, and an answer of another program, are errors that name the address."""
    url, texts = endpoint
    with pytest.raises(MetricsError, match=r"no metrics at http://127.*500"):
        read_metrics(url)
    texts.append(b"python_info 1.0\n")
    with pytest.raises(MetricsError, match="none of a clip-search server"):
        read_metrics(url)
