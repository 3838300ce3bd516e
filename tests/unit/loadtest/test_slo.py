"""SLO files, and runs compared with them."""

from pathlib import Path

import pytest

from loadtest.names import names_of
from loadtest.outcome import Outcome, Requests
from loadtest.profiles import KINDS
from loadtest.slo import BOUNDS, Slo, SloError, check, read_slo

_NAMES = ("Search: text", "Classify")
_OBJECTIVES = Path(__file__).resolve().parents[3] / "loadtest" / "objectives"


def _run(*rows: Requests) -> Outcome:
    return Outcome(began=0.0, seconds=10.0, requests=rows)


def _slo(tmp_path: Path, text: str) -> Slo:
    (tmp_path / "slo.toml").write_text(text, encoding="utf-8")
    return read_slo(tmp_path / "slo.toml", _NAMES)


def test_bounds_of_a_name_come_before_those_of_every_request(tmp_path: Path) -> None:
    """A name has its own bounds and, where it has none, those of every request."""
    slo = _slo(tmp_path, '[every_request]\nerror_share_max = 0\np99_ms = 9\n[requests."Search: text"]\np99_ms = 5\n')
    assert slo.bounds("Search: text") == {"error_share_max": 0, "p99_ms": 5}
    assert slo.bounds("Classify") == {"error_share_max": 0, "p99_ms": 9}


@pytest.mark.parametrize(
    ("bound", "limit", "missed"),
    [
        ("p50_ms", 10, 9.9),
        ("p95_ms", 40, 39),
        ("p99_ms", 100, 99),
        ("error_share_max", 0.1, 0.09),
        ("refused_share_max", 0.2, 0.19),
        ("per_second_min", 7, 7.1),
    ],
)
def test_each_bound_is_kept_at_its_limit_and_missed_beyond(bound: str, limit: float, missed: float) -> None:
    """A figure equal to the limit keeps it; a little beyond misses it."""
    run = _run(Requests("Classify", 70, 10, 20, {10: 40, 40: 36, 100: 4}))
    for asked, is_kept in ((limit, True), (missed, False)):
        (verdict,) = check(Slo({"Classify": {bound: asked}}, {}), run, _NAMES)
        assert verdict.is_kept is is_kept, str(verdict)


def test_the_cases_above_cover_every_bound() -> None:
    """Whoever adds a bound adds a case."""
    assert set(BOUNDS) == {"p50_ms", "p95_ms", "p99_ms", "error_share_max", "refused_share_max", "per_second_min"}


def test_a_miss_says_which_row_by_how_much() -> None:
    """Name, bound, what was found, what was allowed and the difference stand in one sentence."""
    run = _run(Requests("Classify", 10, 0, 0, {120: 10}))
    slow, rare = check(Slo({"Classify": {"p95_ms": 50, "per_second_min": 4}}, {}), run, _NAMES)
    assert str(slow) == "Classify: 95th percentile is 120 ms, 70 ms above the 50 ms that are allowed"
    assert str(rare) == "Classify: answers a second is 1, 3 below the 4 that are asked for"


def test_a_name_with_bounds_that_was_never_asked_for_misses_them() -> None:
    """Silence is no success: bounds by name want requests; those of every request bind what was sent."""
    verdicts = check(Slo({"Classify": {"p95_ms": 50}}, {"error_share_max": 0}), _run(), _NAMES)
    assert [(each.name, each.is_kept) for each in verdicts] == [("Classify", False), ("Classify", False)]
    assert "none was answered" in str(verdicts[0])


def test_names_of_users_who_take_no_part_are_not_judged() -> None:
    """A run of searchers alone keeps an SLO that asks for classifications too."""
    slo = Slo({"Classify": {"per_second_min": 1}, "Search: text": {"p50_ms": 9}}, {})
    (verdict,) = check(slo, _run(Requests("Search: text", 5, 0, 0, {3: 5})), ["Search: text"])
    assert verdict.is_kept


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("p95_ms = 3\n", r"\[p95_ms\] is no table"),
        ("[requests.Classfy]\np95_ms = 3\n", "no request 'Classfy'; there are 'Search: text', 'Classify'"),
        ("[requests.Classify]\np96_ms = 3\n", r"Classify.*p96_ms, which is no bound; there are p50_ms"),
        ('[requests.Classify]\np95_ms = "3"\n', "p95_ms is '3'; a number"),
        ("[requests.Classify]\np95_ms = -1\n", "p95_ms is -1; a number"),
        ("[requests.Classify]\np95_ms = nan\n", "p95_ms is nan; a number"),
        ("[requests.Classify]\np95_ms = true\n", "p95_ms is True; a number"),
        ("requests = 3\n", "must hold a table"),
        ("[requests]\nClassify = 3\n", "must be a table of bounds"),
        ("# nothing\n", "holds no bound"),
        ("[requests\n", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_with_the_entry(tmp_path: Path, text: str, complaint: str) -> None:
    """Names, bounds and limits that there are not are errors: nothing in the file is ignored."""
    with pytest.raises(SloError, match=complaint):
        _slo(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path stands in the message."""
    with pytest.raises(SloError, match=r"nowhere\.toml cannot be read"):
        read_slo(tmp_path / "nowhere.toml", _NAMES)


@pytest.mark.parametrize("file", sorted(_OBJECTIVES.glob("*.toml")), ids=lambda path: str(path.name))
def test_the_files_that_come_along_can_be_read(file: Path) -> None:
    """They name requests and bounds that there are, and allow no errors."""
    assert read_slo(file, names_of(KINDS)).every["error_share_max"] == 0
