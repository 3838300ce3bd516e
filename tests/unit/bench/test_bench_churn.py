"""Many updates cost a collection neither recall nor room."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.bench_churn import CACHES_BYTES, Items, State, fresh, shortfalls, updated
from clip_search_server.index import IndexSettings

TAIL_ROWS = 256
ROWS, DIM, ROUNDS = 8 * TAIL_ROWS, 32, 20  # In a fresh collection all are sealed.
SETTINGS = IndexSettings(tail_rows_max=TAIL_ROWS, build_threads=1, quiet_seconds=0.2, durability="interval")
STATE = State(0.99, 100, 0, 1, 1000, 1000, 1000)


@pytest.mark.slow
def test_churn_costs_neither_recall_nor_room(tmp_path: Path) -> None:
    """After twenty rounds of updating a fifth, a collection is as good as a fresh one, and soon as small."""
    items = Items(ROWS, DIM)
    after, quiet = updated(tmp_path / "updated", items, ROUNDS, SETTINGS, report=lambda _line: None)
    new = fresh(tmp_path / "fresh", items, SETTINGS)
    assert after.rows == quiet.rows == new.rows == ROWS
    assert after.recall > 0.95
    assert shortfalls(updated=after, quiet=quiet, fresh=new) == []
    assert quiet.dead_rows <= SETTINGS.dead_share_quiet_max * ROWS


@pytest.mark.parametrize(
    ("moment", "worse"),
    [
        ("updated", {"recall": 0.979}),
        ("quiet", {"recall": 0.979}),
        ("quiet", {"index_bytes": 1101}),
        ("quiet", {"segment_bytes": 1101}),
        ("quiet", {"resident_bytes": 1101 + CACHES_BYTES}),
    ],
)
def test_what_is_missed_is_named(moment: str, worse: dict[str, float]) -> None:
    """One sentence for each bar; at the bar itself there is none."""
    states = {"updated": STATE, "quiet": STATE, "fresh": STATE}
    at_the_bar = replace(STATE, recall=0.981, index_bytes=1100, segment_bytes=1100, resident_bytes=1100)
    assert shortfalls(**{**states, moment: at_the_bar}) == []
    (sentence,) = shortfalls(**{**states, moment: replace(STATE, **worse)})  # type: ignore[arg-type]
    assert str(next(iter(worse.values()))) in sentence
