"""What a run found, as the Locust process that leads it wrote it down: requests by name, errors, figures over time.

    outcome.json       everything, for the report; percentiles are computed from its histograms
    requests.csv       a row for each name of requests, the last one for all of them
    over_time.csv      a row for about each second

A histogram counts milliseconds; Locust rounds times from 100 ms on to two digits. Knows nothing of Locust otherwise.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

__all__ = ["ALL", "Failure", "Moment", "Outcome", "Requests", "read_outcome", "total", "write_outcome", "write_tables"]

ALL = "all"


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of one name.

    Attributes:
        name: what they were.
        answered: how many were answered.
        errors: how many failed otherwise than by being refused.
        refused: how many were refused (RESOURCE_EXHAUSTED).
        times_ms: how many took how many milliseconds, of the answered ones and those that missed their deadline.
    """

    name: str
    answered: int
    errors: int
    refused: int
    times_ms: Mapping[int, int] = field(default_factory=dict)

    @property
    def sent(self) -> int:
        """How many there were in all."""
        return self.answered + self.errors + self.refused

    @property
    def error_share(self) -> float:
        """The share of errors among all, 0 to 1."""
        return self.errors / self.sent if self.sent else 0.0

    @property
    def refused_share(self) -> float:
        """The share of refusals among all, 0 to 1."""
        return self.refused / self.sent if self.sent else 0.0

    def percentile_ms(self, percent: float) -> float | None:
        """Return the time within which `percent` of those ended that have one (nearest rank); None where none has."""
        count = sum(self.times_ms.values())
        rank, seen = max(1, -int(-percent * count // 100)), 0
        for time_ms in sorted(self.times_ms):
            seen += self.times_ms[time_ms]
            if seen >= rank:
                return time_ms
        return None


@dataclass(frozen=True, slots=True)
class Failure:
    """Errors with the same message.

    Attributes:
        count: how often it was met.
    """

    name: str
    message: str
    count: int


@dataclass(frozen=True, slots=True)
class Moment:
    """The run at one moment, as the last few seconds were.

    Attributes:
        at: seconds since 1970.
        users: how many users were there.
        per_second: requests a second, refused ones too.
        errors_per_second: those that failed.
        p50_ms, p95_ms: response times.
    """

    at: float
    users: int
    per_second: float
    errors_per_second: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run.

    Attributes:
        began: seconds since 1970.
        seconds: how long it lasted, to the last answer.
        requests: by name.
        failures: the most frequent ones.
        moments: in their order.
        crashes: exceptions of the load test's own code, and workers that went missing.
        stalls_ms: the longest stall of each Locust process.
    """

    began: float
    seconds: float
    requests: Sequence[Requests]
    failures: Sequence[Failure] = ()
    moments: Sequence[Moment] = ()
    crashes: Sequence[str] = ()
    stalls_ms: Mapping[str, float] = field(default_factory=dict)

    def per_second(self, requests: Requests) -> float:
        """Return how many of some requests were answered each second of the run."""
        return requests.answered / self.seconds if self.seconds > 0 else 0.0


def total(rows: Iterable[Requests]) -> Requests:
    """Return all requests as one row."""
    rows = list(rows)
    times: Counter[int] = Counter()
    for row in rows:
        times.update(row.times_ms)
    return Requests(
        ALL, sum(row.answered for row in rows), sum(row.errors for row in rows), sum(row.refused for row in rows), times
    )


def write_outcome(outcome: Outcome, file: Path) -> None:
    """Write a run down; the file appears whole or not at all."""
    coming = file.with_suffix(".coming")
    coming.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    coming.replace(file)


def read_outcome(file: Path) -> Outcome:
    """Read what `write_outcome` wrote."""
    found = json.loads(file.read_text(encoding="utf-8"))
    rows = [
        Requests(**{**row, "times_ms": {int(time_ms): count for time_ms, count in row["times_ms"].items()}})
        for row in found.pop("requests")
    ]
    failures = [Failure(**each) for each in found.pop("failures")]
    moments = [Moment(**each) for each in found.pop("moments")]
    return Outcome(requests=rows, failures=failures, moments=moments, **found)


def write_tables(outcome: Outcome, folder: Path) -> None:
    """Write `requests.csv` and `over_time.csv`."""
    with (folder / "requests.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(
            ["name", "sent", "answered", "errors", "refused", "per_second", "p50_ms", "p95_ms", "p99_ms", "max_ms"]
        )
        for row in (*outcome.requests, total(outcome.requests)):
            times = [row.percentile_ms(percent) for percent in (50, 95, 99, 100)]
            counts = [row.sent, row.answered, row.errors, row.refused]
            table.writerow([row.name, *counts, round(outcome.per_second(row), 3), *times])
    with (folder / "over_time.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        names = [each.name for each in fields(Moment) if each.name != "at"]
        table.writerow(["seconds", *names])
        for moment in outcome.moments:
            table.writerow([round(moment.at - outcome.began, 1), *(getattr(moment, name) for name in names)])
