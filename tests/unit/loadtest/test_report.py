"""The page about a run."""

from html.parser import HTMLParser

from loadtest.charts import Line, line_chart
from loadtest.outcome import Failure, Moment, Outcome, Requests
from loadtest.report import Run, render_report
from loadtest.scenario import Scenario, read_scenario
from loadtest.server_metrics import Reading
from loadtest.slo import Verdict

_SCENARIO = Scenario("localhost:1", "spike", 50, 60, "pictures")
_READINGS = [
    Reading(1_000.0 + second, [("clip_search_calls_total", {"code": "OK"}, 20.0 * second)]) for second in range(4)
]


def _run(**changes: object) -> Run:
    outcome = Outcome(
        began=1_000.0,
        seconds=4.0,
        requests=[Requests("Search: text", 98, 1, 7, {5: 98, 5000: 1})],
        failures=[Failure("Search: text", "INTERNAL: <script>alert(1)</script>", 1)],
        moments=[Moment(1_001.0, 3, 11.0, 0.1, 5, 40), Moment(1_002.0, 3, 11.0, 0.1, 5, 40)],
        stalls_ms={"this process": 912.0},
    )
    verdicts = [Verdict("Search: text", "p50_ms", 9.0, 5.0), Verdict("Search: text", "p99_ms", 50.0, 5000.0)]
    fields = {"scenario": _SCENARIO, "outcome": outcome, "verdicts": verdicts, "slo": "slo.toml", "readings": _READINGS}
    return Run(**{**fields, **changes})  # type: ignore[arg-type]  # tests change any field


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def _read(page: str) -> tuple[str, list[str]]:
    parser = _Words()
    parser.feed(page)
    return " ".join(parser.words), parser.tags


def test_the_page_says_what_was_missed_and_shows_users_and_server() -> None:
    """Verdict, requests with refusals apart, errors, charts of both sides, and a warning about our own stalls."""
    words, tags = _read(render_report(_run()))
    assert "The run missed 1 of 2 bounds." in words
    assert "up to 50 users" in words.lower()
    assert "99th percentile" in words
    assert "late by 912 ms at worst" in words
    assert "use fewer users" in words
    assert "Response time, all requests, ms" in words
    assert "Calls that ended, a second" in words
    assert "server.csv" in words
    assert tags.count("svg") >= 4


def test_what_comes_from_servers_is_escaped() -> None:
    """A message with markup is shown as text."""
    words, tags = _read(render_report(_run()))
    assert "<script>alert(1)</script>" in words
    assert "script" not in tags


def test_without_metrics_the_page_says_how_to_have_them() -> None:
    """No readings, no charts of the server, and no link to a table that is not there."""
    words, _tags = _read(render_report(_run(readings=[], verdicts=[])))
    assert "run with --metrics URL" in words
    assert "The run kept to its SLO." in words
    assert "server.csv" not in words


def test_lines_have_gaps_where_nothing_is_known() -> None:
    """A value alone is a dot, and no line is drawn over a gap or outside of the run."""
    chart = line_chart("t", [Line("a", [(0, 1), (1, 2), (2, None), (3, 5), (4, None), (99, 7)])], 4)
    assert chart.count("<polyline") == 1
    assert chart.count("<circle") == 1
    assert line_chart("t", [Line("a", [(0, None)])], 4) == ""


def test_a_scenario_travels_as_text() -> None:
    """Workers read what their master wrote."""
    assert read_scenario(_SCENARIO.text()) == _SCENARIO
