"""What a run found, and its files."""

import csv
from pathlib import Path

import pytest

from loadtest.outcome import Failure, Moment, Outcome, Requests, read_outcome, total, write_outcome, write_tables

_RUN = Outcome(
    began=1_000.0,
    seconds=10.0,
    requests=[Requests("Search: text", 98, 1, 1, {5: 90, 40: 8, 5000: 1}), Requests("Classify", 10, 0, 0, {20: 10})],
    failures=[Failure("Search: text", "DEADLINE_EXCEEDED: no answer", 1)],
    moments=[Moment(1_001.0, 3, 11.0, 0.1, 5, 40)],
    crashes=["KeyError: 3"],
    stalls_ms={"this process": 12.5},
)


@pytest.mark.parametrize(("percent", "expected_ms"), [(1, 1), (50, 50), (95, 95), (99, 99), (100, 100)])
def test_percentiles_are_nearest_ranks(percent: float, expected_ms: int) -> None:
    """Of the times 1 to 100, the p-th percentile is p."""
    assert Requests("x", 100, 0, 0, dict.fromkeys(range(1, 101), 1)).percentile_ms(percent) == expected_ms


def test_without_times_there_is_no_percentile() -> None:
    """Requests that were all refused have none; it is not 0, which would keep every bound."""
    assert Requests("x", 0, 0, 7).percentile_ms(99) is None


def test_shares_are_of_all_that_was_sent() -> None:
    """Refusals are no errors, and both are shares of everything."""
    row = Requests("x", 6, 1, 3)
    assert (row.sent, row.error_share, row.refused_share) == (10, 0.1, 0.3)
    assert Requests("x", 0, 0, 0).error_share == 0


def test_the_total_joins_counts_and_times() -> None:
    """All requests are one row, whose percentiles are those of all times together."""
    row = total(_RUN.requests)
    assert (row.answered, row.errors, row.refused) == (108, 1, 1)
    assert row.times_ms == {5: 90, 20: 10, 40: 8, 5000: 1}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """JSON turns milliseconds into texts; reading makes them numbers again."""
    write_outcome(_RUN, tmp_path / "outcome.json")
    assert read_outcome(tmp_path / "outcome.json") == _RUN


def test_tables_have_a_row_for_each_name_and_moment(tmp_path: Path) -> None:
    """requests.csv ends with the total; over_time.csv counts seconds from the beginning."""
    write_tables(_RUN, tmp_path)
    with (tmp_path / "requests.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["Search: text", "Classify", "all"]
    figures = [rows[0][column] for column in ("refused", "per_second", "p50_ms", "max_ms")]
    assert figures == ["1", "9.8", "5", "5000"]
    with (tmp_path / "over_time.csv").open(encoding="utf-8") as file:
        (moment,) = csv.DictReader(file)
    assert (moment["seconds"], moment["users"], moment["p95_ms"]) == ("1.0", "3", "40")
