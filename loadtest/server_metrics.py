"""The server's own figures over a run: asked for once a second as Prometheus would, and turned into columns.

`clip-search serve --metrics-listen` says where. Counters and histograms are compared from one reading to the next, so a
row tells of the time in between. Knows nothing of Locust, and of how figures are drawn.
"""

import csv
import itertools
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["COLUMNS", "Column", "MetricsError", "Reading", "Watch", "read_metrics", "rows", "write_table"]

_BYTES_MAX = 16 << 20
_ANSWER_SECONDS_MAX = 5.0
_STEP_SECONDS = 1.0
_READINGS_MAX = 24 * 3600
_PREFIX = "clip_search_"
_MIB = 1 << 20


class MetricsError(Exception):
    """The metrics cannot be had; the message names the address."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the server answered.

    Attributes:
        at: when, in seconds since 1970.
        samples: name, labels and value of each.
    """

    at: float
    samples: Sequence[tuple[str, Mapping[str, str], float]]

    def sum(self, name: str, **labels: str) -> float | None:
        """Return the sum of all samples of a name with these labels; None where there is none."""
        found = [
            value
            for other, have, value in self.samples
            if other == name and all(have.get(key) == wanted for key, wanted in labels.items())
        ]
        return sum(found) if found else None


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of the time between two readings.

    Attributes:
        key: its name in the table of figures.
        title: its name for people.
        chart: which figures are drawn together, and their unit.
        value: computes it; None where there is nothing to tell, such as the size of batches where there were none.
    """

    key: str
    title: str
    chart: str
    value: Callable[[Reading, Reading], float | None]


def read_metrics(url: str) -> Reading:
    """Ask for the metrics.

    Raises:
        MetricsError: there is no answer, or one that is none of a clip-search server.
    """
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS_MAX) as response:  # noqa: S310 - the user's own address
            text = response.read(_BYTES_MAX).decode("utf-8")
        families = list(text_string_to_metric_families(text))
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise MetricsError(
            f"no metrics at {url} ({error}): give the address that the server logs as 'metrics at …' "
            "(clip-search serve --metrics-listen)"
        ) from error
    reading = Reading(time.time(), [(each.name, each.labels, each.value) for one in families for each in one.samples])
    if reading.sum(f"{_PREFIX}open_calls") is None:
        raise MetricsError(f"{url} gives metrics, but none of a clip-search server")
    return reading


@dataclass(slots=True)
class Watch:
    """Readings of a server, taken in a thread of its own.

    Attributes:
        url: where the metrics are.
        readings: what was found, in order.
        failures: how often there was no answer.
    """

    url: str
    readings: list[Reading] = field(default_factory=list)
    failures: int = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Take readings as long as the block lasts, at its beginning and its end too.

        Raises:
            MetricsError: there is no first reading.
        """
        self.readings.append(read_metrics(self.url))
        over = threading.Event()
        thread = threading.Thread(target=self._run, args=(over,), name="server-metrics")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _run(self, over: threading.Event) -> None:
        while len(self.readings) < _READINGS_MAX:
            is_over = over.wait(_STEP_SECONDS)
            try:
                self.readings.append(read_metrics(self.url))
            except MetricsError:
                self.failures += 1
            if is_over:
                return


def rows(readings: Sequence[Reading]) -> list[tuple[float, dict[str, float | None]]]:
    """Return the time of each reading but the first, in seconds since 1970, and the figures since the one before."""
    return [
        (now.at, {column.key: column.value(before, now) for column in COLUMNS})
        for before, now in itertools.pairwise(readings)
        if now.at > before.at
    ]


def write_table(readings: Sequence[Reading], began: float, file: Path) -> None:
    """Write the figures as CSV, each row with the seconds since `began`."""
    with file.open("w", newline="", encoding="utf-8") as output:
        table = csv.writer(output)
        table.writerow(["seconds", *(column.key for column in COLUMNS)])
        for at, figures in rows(readings):
            table.writerow(
                [round(at - began, 1), *("" if each is None else round(each, 4) for each in figures.values())]
            )


def _grown(name: str, **labels: str) -> Callable[[Reading, Reading], float | None]:
    """Tell by how much a counter grew; one that was not there yet counted from 0, one that shrank was started anew."""

    def value(before: Reading, now: Reading) -> float | None:
        later = now.sum(f"{_PREFIX}{name}", **labels)
        if later is None:
            return None
        earlier = before.sum(f"{_PREFIX}{name}", **labels) or 0.0
        return later - earlier if later >= earlier else later

    return value


def _rate(name: str, **labels: str) -> Callable[[Reading, Reading], float | None]:
    grown = _grown(name, **labels)

    def value(before: Reading, now: Reading) -> float | None:
        return (grown(before, now) or 0.0) / (now.at - before.at)

    return value


def _mean(name: str, factor: float = 1.0, **labels: str) -> Callable[[Reading, Reading], float | None]:
    """Tell the mean of a histogram."""
    sums, counts = _grown(f"{name}_sum", **labels), _grown(f"{name}_count", **labels)

    def value(before: Reading, now: Reading) -> float | None:
        count = counts(before, now)
        return factor * (sums(before, now) or 0.0) / count if count else None

    return value


def _now(name: str, **labels: str) -> Callable[[Reading, Reading], float | None]:
    return lambda _before, now: now.sum(f"{_PREFIX}{name}", **labels)


def _hit_share(before: Reading, now: Reading) -> float | None:
    hits, misses = (_grown(f"text_cache_{kind}_total")(before, now) or 0.0 for kind in ("hits", "misses"))
    return 100 * hits / (hits + misses) if hits + misses else None


def _cores(before: Reading, now: Reading) -> float | None:
    """Tell processor time a second; the process's own metrics carry no prefix."""
    later, earlier = now.sum("process_cpu_seconds_total"), before.sum("process_cpu_seconds_total")
    return None if later is None or earlier is None else max(0.0, later - earlier) / (now.at - before.at)


def _resident(_before: Reading, now: Reading) -> float | None:
    found = now.sum("process_resident_memory_bytes")
    return None if found is None else found / _MIB


_FAILED = ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED")


def _failing(before: Reading, now: Reading) -> float | None:
    return sum(_rate("calls_total", code=code)(before, now) or 0.0 for code in _FAILED)


COLUMNS: tuple[Column, ...] = (
    Column("calls_per_second", "calls", "Calls that ended, a second", _rate("calls_total")),
    Column(
        "refused_per_second", "refused", "Calls that ended, a second", _rate("calls_total", code="RESOURCE_EXHAUSTED")
    ),
    Column("failed_per_second", "failed", "Calls that ended, a second", _failing),
    Column(
        "search_ms",
        "Search",
        "Mean time of calls inside the server, ms",
        _mean("call_seconds", 1e3, method="SearchService/Search"),
    ),
    Column(
        "classify_ms",
        "Classify",
        "Mean time of calls inside the server, ms",
        _mean("call_seconds", 1e3, method="SearchService/Classify"),
    ),
    Column("text_batch", "texts", "Inputs in a batch, mean", _mean("batch_inputs", tower="text")),
    Column("image_batch", "pictures", "Inputs in a batch, mean", _mean("batch_inputs", tower="image")),
    Column("text_wait_ms", "texts", "Wait for a batch, mean, ms", _mean("queue_wait_seconds", 1e3, tower="text")),
    Column("image_wait_ms", "pictures", "Wait for a batch, mean, ms", _mean("queue_wait_seconds", 1e3, tower="image")),
    Column("text_inside", "texts", "Inputs inside, waiting or worked on", _now("tower_inputs", tower="text")),
    Column("image_inside", "pictures", "Inputs inside, waiting or worked on", _now("tower_inputs", tower="image")),
    Column("open_calls", "calls", "Open calls", _now("open_calls")),
    Column("open_streams", "of them streams", "Open calls", _now("open_streams")),
    Column("text_cache_hit_percent", "hits", "Texts found in the cache, %", _hit_share),
    Column("sync_ms", "sync", "Wait for the disk at a commit, mean, ms", _mean("sync_seconds", 1e3)),
    Column("cpu_cores", "cores", "Processor cores in use", _cores),
    Column("resident_mib", "resident", "Memory, MiB", _resident),
)
"""Figures of a row, in the order of the table."""
