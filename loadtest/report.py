"""The page about a run: the verdict, the requests, and over the same time what users and server saw.

One self-contained HTML file without scripts. Locust's own page stands beside it, for those who know it. Knows nothing
of how figures came about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from clip_search.page import Section, render_page
from loadtest.charts import STYLE, Line, line_chart
from loadtest.outcome import Outcome, Requests, total
from loadtest.scenario import Scenario
from loadtest.server_metrics import COLUMNS, Reading, rows
from loadtest.slo import BOUNDS, Verdict

__all__ = ["Run", "render_report"]

#: From here on, the load test's own process is worth a warning: what it was late stands in the requests' times.
STALL_MS_MAX = 200
_FAILURES_SHOWN = 20
_WINDOWS = "Each point tells of some seconds before: rates of ten, response times of five."


@dataclass(frozen=True, slots=True)
class Run:
    """All that the page shows.

    Attributes:
        scenario: the settings.
        outcome: what the users found.
        verdicts: the SLO's, in its order.
        slo: where that was read.
        readings: the server's own metrics; empty where nobody asked for them.
        notes: what else must be said.
    """

    scenario: Scenario
    outcome: Outcome
    verdicts: Sequence[Verdict]
    slo: str
    readings: Sequence[Reading] = ()
    notes: Sequence[str] = ()


def render_report(run: Run) -> str:
    """Return the page."""
    missed = [verdict for verdict in run.verdicts if not verdict.is_kept]
    verdict = f"The run missed {len(missed)} of {len(run.verdicts)} bounds." if missed else "The run kept to its SLO."
    settings = (
        f"Profile {run.scenario.profile_name}: {run.scenario.profile.text}. Up to {run.scenario.users} users for "
        f"{run.scenario.seconds:g} s against {run.scenario.host}."
    )
    sections = [
        Section("Service level objectives", STYLE + _verdict_table(run)),
        Section("Requests", _request_table(run.outcome) + _failure_table(run.outcome)),
        Section("What the users saw", _user_charts(run.outcome)),
        Section("What the server says of itself", _server_part(run)),
        Section("How to read this", _notes(run)),
    ]
    return render_page(title="Load test", introduction=f"{verdict}\n\n{settings}", sections=sections)


def _table(heads: Sequence[str], body: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    return (
        f'<div class="scroll"><table class="load-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(f'<tr>{row}</tr>' for row in body)}</tbody></table></div>"
    )


def _row(name: str, cells: Sequence[str]) -> str:
    return f'<th scope="row">{escape(name)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells)


def _number(value: float | None, *, digits: int = 4) -> str:
    return "–" if value is None else f"{value:,.{digits}g}"


def _verdict_table(run: Run) -> str:
    missed = [verdict for verdict in run.verdicts if not verdict.is_kept]
    kept = [verdict for verdict in run.verdicts if verdict.is_kept]
    shown = _verdict_rows(missed) if missed else ""
    source = f"{len(kept)} of {len(run.verdicts)} bounds of {escape(run.slo)} were kept."
    return f"{shown}<details><summary>{source}</summary>{_verdict_rows(kept)}</details>"


def _verdict_rows(verdicts: Sequence[Verdict]) -> str:
    body = []
    for verdict in verdicts:
        kind = BOUNDS[verdict.bound]
        sign = "≥" if kind.is_minimum else "≤"
        state = '<td class="kept">kept</td>' if verdict.is_kept else '<td class="missed">missed</td>'
        cells = [kind.text, f"{sign} {verdict.limit:g}{kind.unit}", _number(verdict.found) + kind.unit]
        body.append(_row(verdict.name, cells) + state)
    return _table(["request", "bound", "allowed", "found", ""], body)


def _request_table(outcome: Outcome) -> str:
    heads = ["request", "answered", "errors", "refused", "answers a second", "median", "95 %", "99 %", "longest"]
    body = [_request_row(outcome, row) for row in (*outcome.requests, total(outcome.requests))]
    return _table(heads, body)


def _request_row(outcome: Outcome, row: Requests) -> str:
    times = [row.percentile_ms(percent) for percent in (50, 95, 99, 100)]
    shown = ["–" if time_ms is None else f"{time_ms:,.0f} ms" for time_ms in times]
    counts = [f"{count:,}" for count in (row.answered, row.errors, row.refused)]
    return _row(row.name, [*counts, f"{outcome.per_second(row):.2f}", *shown])


def _failure_table(outcome: Outcome) -> str:
    if not outcome.failures:
        return ""
    body = [
        f'<th scope="row">{escape(each.name)}</th><td>{each.count:,}</td><td class="words">{escape(each.message)}</td>'
        for each in outcome.failures[:_FAILURES_SHOWN]
    ]
    return "<h3>Errors</h3>" + _table(["request", "times", "message"], body)


def _user_charts(outcome: Outcome) -> str:
    moments = [(moment.at - outcome.began, moment) for moment in outcome.moments]
    charts = [
        line_chart("Users", [Line("users", [(at, each.users) for at, each in moments])], outcome.seconds),
        line_chart(
            "Requests a second",
            [
                Line("requests", [(at, each.per_second) for at, each in moments]),
                Line("errors", [(at, each.errors_per_second) for at, each in moments]),
            ],
            outcome.seconds,
        ),
        line_chart(
            "Response time, all requests, ms",
            [
                Line("median", [(at, each.p50_ms) for at, each in moments]),
                Line("95 %", [(at, each.p95_ms) for at, each in moments]),
            ],
            outcome.seconds,
        ),
    ]
    return f'<div class="charts">{"".join(charts)}</div><p class="note">{_WINDOWS}</p>'


def _server_part(run: Run) -> str:
    found = rows(run.readings)
    if not found:
        return "<p>Nobody asked the server: run with --metrics URL to see its own figures here.</p>"
    charts = []
    for chart in dict.fromkeys(column.chart for column in COLUMNS):
        lines = [
            Line(column.title, [(at - run.outcome.began, figures[column.key]) for at, figures in found])
            for column in COLUMNS
            if column.chart == chart
        ]
        charts.append(line_chart(chart, lines, run.outcome.seconds))
    return f'<div class="charts">{"".join(charts)}</div><h3>Over the whole run</h3>{_server_table(run)}'


def _server_table(run: Run) -> str:
    """Show each column over the whole run, and the largest value of its rows."""
    found = rows(run.readings)
    body = []
    for column in COLUMNS:
        values = [value for _at, figures in found if (value := figures[column.key]) is not None]
        if values:
            overall = column.value(run.readings[0], run.readings[-1])
            body.append(_row(f"{column.chart}: {column.title}", [_number(overall), _number(max(values))]))
    return _table(["figure", "whole run, or at its end", "highest second"], body)


def _notes(run: Run) -> str:
    worst_ms = max(run.outcome.stalls_ms.values(), default=0.0)
    notes = [
        (
            "Searchers and classifiers keep a timetable that does not wait for answers (open loop), and a request that "
            "was wanted while the one before was still out counts from when it was wanted. Ingesters send as fast as "
            "the server takes it (closed loop): their rate tells more than their times."
        ),
        (
            "Times are those of answers and missed deadlines. Refusals (RESOURCE_EXHAUSTED) are no errors; like other "
            "errors they have no time. Nothing is tried again."
        ),
        f"The load test's own processes were late by {worst_ms:.0f} ms at worst, which is part of the times above."
        + (" That is much: use fewer users, or more processes (--processes)." if worst_ms > STALL_MS_MAX else ""),
        *run.notes,
    ]
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    links = "".join(f'<li><a href="{name}">{name}</a></li>' for name in _files(run))
    return f"<ul>{items}</ul><p>The same figures as tables, and Locust's own page:</p><ul>{links}</ul>"


def _files(run: Run) -> list[str]:
    return ["requests.csv", "over_time.csv", *(["server.csv"] if run.readings else []), "locust.html"]
