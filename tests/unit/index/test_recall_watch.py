"""When recall is measured, what the estimate rests on, and when a segment is tuned again."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clip_search_server.index import Collection, IndexSettings, Record, Search, recall_watch
from clip_search_server.index.entries import SegmentEntry, Tuning
from clip_search_server.index.recall_watch import RecallWatch
from clip_search_server.index.sealed import IdTable, SealedPart, SealedRows
from clip_search_server.index.segment import BuildCancelledError
from clip_search_server.index.tail import NEVER, Tail
from clip_search_server.index.tuning import tune
from clip_search_server.index.types import FloatArray, IntArray
from clip_search_server.index.view import View
from tests.unit.index.support import (
    DIM,
    SPACE,
    BruteForceEngine,
    BruteForceSegment,
    random_vectors,
    wait_until,
)
from tests.unit.index.test_tuning import Lossy

VECTORS = random_vectors(400, seed=1)
QUERIES = random_vectors(600, seed=3)
SETTINGS = IndexSettings(ef_min=64, recall_interval_seconds=30.0)
OFTEN = IndexSettings(tail_rows_max=100, ef_min=64, recall_interval_seconds=0.01)


def _part(segment: BruteForceSegment, *, ef: int = 64, name: str = "p", vectors: FloatArray = VECTORS) -> SealedPart:
    labels = np.arange(len(vectors))
    rows = SealedRows(labels, labels, IdTable.of(f"item {at}" for at in labels), vectors)
    entry = SegmentEntry(name, "brute-force", {}, len(labels), len(labels), {}, Tuning(ef, 1.0, 0.98))
    return SealedPart(entry, rows, segment, np.full(len(labels), NEVER))


def _whole() -> BruteForceSegment:
    return BruteForceSegment(VECTORS, 1 << 30)


class Watched:
    """A watch over parts, queries, a count of searches and a clock that the test sets; nothing waits."""

    def __init__(self, *parts: SealedPart) -> None:
        self.parts = list(parts)
        self.queries = QUERIES[:0]
        self.searches = 0
        self.searches_meanwhile = 0
        self.seconds = 1000.0
        self.seconds_a_look = 0.0
        self.waits: list[float] = []
        self.is_wanted: Callable[[], bool] = lambda: False
        self.reported: list[str] = []
        self.watch = RecallWatch(
            self._view,
            lambda: self.queries,
            lambda: self.searches,
            settings=SETTINGS,
            report=self.reported.append,
            clock=self._clock,
        )

    def run(self) -> bool:
        """Do a round."""
        return self.watch.run(self._wait)

    def estimate(self) -> tuple[float, int]:
        """Return the estimate's recall and number of queries."""
        assert self.watch.estimate is not None
        return self.watch.estimate.recall, self.watch.estimate.query_count

    def _view(self) -> View:
        counts = tuple(len(part.live_rows(0)) for part in self.parts)
        return View(0, sum(counts), tuple(self.parts), counts, Tail(DIM).view())

    def _wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.is_wanted()

    def _clock(self) -> float:
        self.seconds += self.seconds_a_look
        self.searches += self.searches_meanwhile
        return self.seconds


def test_without_sealed_rows_there_is_nothing_to_estimate() -> None:
    """Where all is scanned exactly no figure is given, and none stays from before."""
    watched = Watched()
    watched.queries = QUERIES[:5]
    watched.run()
    assert watched.watch.estimate is None
    watched.parts = [_part(_whole())]
    watched.run()
    assert watched.estimate() == (1.0, 5)
    watched.parts[0].died_at[:] = 0
    watched.run()
    assert watched.watch.estimate is None
    assert watched.reported == []


def test_without_queries_there_is_no_estimate() -> None:
    """Nobody asked, so nothing is claimed."""
    watched = Watched(_part(_whole()))
    assert watched.run() is False
    assert watched.watch.estimate is None


def test_each_query_counts_once() -> None:
    """A query asked again and again is measured once; a round without a new one asks the graph nothing."""
    segment = Lossy(VECTORS, enough=1, enough_for_hard=10_000, hard=QUERIES[:1])
    watched = Watched(_part(segment))
    watched.queries = QUERIES[[0, 0, 1, 0, 2, 3]]
    watched.run()
    assert watched.estimate() == pytest.approx((39 / 40, 4))
    asked = len(segment.asked)
    watched.run()
    assert len(segment.asked) == asked == 4
    watched.queries = QUERIES[[0, 0, 1, 0, 2, 3, 4]]
    watched.run()
    assert watched.estimate() == pytest.approx((49 / 50, 5))


def test_a_round_takes_a_few_queries_the_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds are bounded by queries and by comparisons; what was asked last is measured first."""
    segment = Lossy(VECTORS, enough=1, enough_for_hard=10_000, hard=QUERIES[90:100])
    watched = Watched(_part(segment))
    watched.queries = QUERIES[:100]
    counts = []
    for _ in range(5):
        watched.run()
        counts.append(watched.estimate()[1])
    assert counts == [32, 64, 96, 100, 100]
    monkeypatch.setattr(recall_watch, "_COMPARISONS_MAX", 3 * len(VECTORS))
    watched.parts = [_part(segment, name="another")]
    watched.run()
    assert watched.estimate() == pytest.approx((0.9, 3))


def test_the_estimate_rests_on_a_bounded_window() -> None:
    """The newest 256 queries: what was asked long ago does not count any more."""
    segment = Lossy(VECTORS, enough=1, enough_for_hard=10_000, hard=QUERIES[:200])
    segment_of_later = _part(segment, ef=8192)
    watched = Watched(segment_of_later)
    for last in range(32, 577, 32):
        watched.queries = QUERIES[max(0, last - 256) : last]
        watched.run()
    assert watched.estimate() == (1.0, 256)


def test_other_segments_are_measured_anew() -> None:
    """After a seal or merge the same queries count again, and what held for the segments before does not."""
    watched = Watched(_part(Lossy(VECTORS, enough=10_000)))
    watched.queries = QUERIES[:8]
    watched.run()
    assert watched.estimate() == pytest.approx((0.9, 8))
    watched.parts = [_part(_whole(), name="merged")]
    watched.run()
    assert watched.estimate() == (1.0, 8)


def test_a_round_is_due_at_intervals_and_rests_after_long_ones() -> None:
    """Not before the first interval; after a round of one minute, nine minutes."""
    watched = Watched(_part(_whole()))
    assert watched.watch.seconds_until_due() == 30.0
    watched.seconds += 40.0
    assert watched.watch.seconds_until_due() == 0.0
    watched.run()
    assert watched.watch.seconds_until_due() == 30.0
    watched.queries = QUERIES[:1]
    watched.seconds_a_look = 10.0
    begun = watched.seconds
    watched.run()
    watched.seconds_a_look = 0.0
    took = watched.seconds - begun - 10.0
    assert took > 30.0
    assert watched.watch.seconds_until_due() == pytest.approx(9 * took)


def test_never_is_an_interval(tmp_path: Path) -> None:
    """An infinite one measures nothing, and the builder goes on waiting for work as ever."""
    settings = IndexSettings(tail_rows_max=50, recall_interval_seconds=float("inf"))
    watch = RecallWatch(lambda: None, None, None, settings=settings, report=print)  # type: ignore[arg-type,return-value]
    assert watch.seconds_until_due() == threading.TIMEOUT_MAX
    collection = Collection.open(tmp_path, dim=DIM, space_id=SPACE, settings=settings, engine=BruteForceEngine())
    collection.upsert([Record(f"item {at}", VECTORS[at]) for at in range(50)])
    wait_until(lambda: collection.stats().tail_row_count == 0)
    collection.close()


def test_it_rests_and_gives_up_where_something_else_is_to_do() -> None:
    """It pauses three times as long as it worked; told that it is in the way, it stops there and keeps nothing."""
    watched = Watched(_part(_whole()))
    watched.queries = QUERIES[:4]
    watched.seconds_a_look = 0.01
    watched.run()
    assert watched.estimate() == (1.0, 4)
    assert watched.waits
    assert watched.waits == pytest.approx([0.03] * len(watched.waits))
    watched.parts = [_part(_whole(), name="another")]
    watched.watch.estimate = None
    watched.waits.clear()
    watched.is_wanted = lambda: True
    assert watched.run() is False
    assert watched.watch.estimate is None
    assert len(watched.waits) == 1


@pytest.mark.parametrize(("searches_a_look", "is_measured"), [(0, True), (2, True), (100, False)])
def test_a_burst_of_searches_ends_a_round(searches_a_look: int, *, is_measured: bool) -> None:
    """More than fifty searches in a second are served alone; a few a second are not disturbed by it."""
    watched = Watched(_part(_whole()))
    watched.queries = QUERIES[:30]
    watched.seconds_a_look = 0.5
    watched.searches_meanwhile = searches_a_look
    watched.run()
    assert (watched.watch.estimate is not None) == is_measured


def test_a_segment_that_misses_the_target_is_tuned_again() -> None:
    """Enough queries below the target widen its searches; what was measured is recorded and told."""
    part = _part(Lossy(VECTORS, enough=1, enough_for_hard=200, hard=QUERIES))
    watched = Watched(part)
    watched.queries = QUERIES[:29]
    assert watched.run() is False
    assert part.ef == 64, "it was judged by too few queries"
    watched.queries = QUERIES[:30]
    assert watched.run() is True
    assert part.entry.tuning == Tuning(256, 1.0, 0.98)
    assert part.ef == 256
    [line] = watched.reported
    assert line == (
        "segment p found 90.0% of what 30 recent queries should find at ef 64; "
        "it is searched with ef 256 from now on, which finds 100.0%"
    )
    watched.run()
    assert watched.estimate() == (1.0, 30), "the estimate still rests on the searches before"


def test_only_the_segment_that_misses_is_tuned_again() -> None:
    """Of two segments the other goes on as it is; of two that miss, the worse goes first and the other next."""
    other = _part(_whole(), name="good")
    worse = _part(Lossy(VECTORS, enough=200, hard=QUERIES[:0]), name="worse")
    bad = _part(Lossy(VECTORS, enough=1, enough_for_hard=200, hard=QUERIES[:20]), name="bad")
    watched = Watched(other, bad, worse)
    watched.queries = QUERIES[:30]
    assert watched.run() is True
    assert (other.ef, bad.ef, worse.ef) == (64, 64, 256)
    assert watched.run() is True
    assert (other.ef, bad.ef, worse.ef) == (64, 256, 256)
    assert watched.run() is False


class Unseen(BruteForceSegment):
    """Misses the second nearest in people's searches, which ask for more nodes than tuning does; never for that."""

    def nearest(self, query: FloatArray, count: int, ef: int) -> IntArray | None:
        """Return the nearest nodes."""
        found = super().nearest(query, count + 1, ef)
        assert found is not None
        return found[:count] if self.is_tuning(count) else np.delete(found, 1)[:count]

    @staticmethod
    def is_tuning(count: int) -> bool:
        """Tell who asks for so many."""
        return count <= 11

    def samples_searched(self) -> int:
        """Return how often tuning asked."""
        return sum(self.is_tuning(count - 1) for count in self.asked)


def test_what_a_segment_was_tuned_again_for_counts_no_more() -> None:
    """Where tuning cannot help, the same queries do not have it tuned time and again; as many others do, once."""
    segment = Unseen(VECTORS, 1 << 30)
    watched = Watched(_part(segment))
    watched.queries = QUERIES[:30]
    assert watched.run() is False
    once = segment.samples_searched()
    assert once > 0
    # A seal elsewhere has all of them measured again.
    watched.parts.append(_part(_whole(), name="new"))
    watched.run()
    watched.queries = QUERIES[:59]
    watched.run()
    assert watched.estimate()[1] == 59
    assert segment.samples_searched() == once, "it was tuned again for what it was tuned for"
    watched.queries = QUERIES[:60]
    watched.run()
    assert segment.samples_searched() > once
    assert watched.parts[0].entry.tuning == Tuning(64, 1.0, 0.98)
    assert watched.reported == []


def test_at_the_widest_search_nothing_is_tuned_any_more() -> None:
    """However much is missed: there is nothing to gain."""
    segment = Lossy(VECTORS, enough=10_000)
    watched = Watched(_part(segment, ef=8192))
    watched.queries = QUERIES[:40]
    for _ in range(4):
        assert watched.run() is False
    assert watched.estimate() == pytest.approx((0.9, 40))
    assert len(segment.asked) == 40, "tuning asked too"
    assert watched.reported == []


def test_a_search_is_never_narrowed() -> None:
    """What a segment was tuned to is where tuning again begins, even where less would do for today's queries."""
    segment = Lossy(VECTORS, enough=1, enough_for_hard=700, hard=QUERIES)
    part = _part(segment, ef=300)
    watched = Watched(part)
    watched.queries = QUERIES[:30]
    assert watched.run() is True
    assert part.ef == 768
    assert min(segment.efs) >= 300
    unseen = _part(Unseen(VECTORS, 1 << 30), ef=300)
    watched.parts = [unseen]
    assert watched.run() is False
    assert unseen.ef == 300


def test_tuning_again_is_given_up_where_something_else_is_to_do() -> None:
    """The segment stays as it is, and is tuned in a later round."""
    segment = Lossy(VECTORS, enough=1, enough_for_hard=200, hard=QUERIES)
    part = _part(segment)
    watched = Watched(part)
    watched.queries = QUERIES[:30]
    watched.seconds_a_look = 0.01
    watched.is_wanted = lambda: len(segment.asked) > 40
    assert watched.run() is False
    assert watched.estimate()[1] == 30
    assert part.ef == 64
    assert len(segment.asked) == 41, "it went on"
    watched.is_wanted = lambda: False
    assert watched.run() is True
    assert part.ef == 256


def test_tuning_is_given_up_when_asked() -> None:
    """Between blocks of the scan and between samples."""
    answers = iter([False, False, True])
    with pytest.raises(BuildCancelledError):
        tune(_whole(), VECTORS, QUERIES[:5], SETTINGS, cancelled=lambda: next(answers))


def test_a_failure_is_told_once_and_tried_again() -> None:
    """Measuring never brings building down; the same failure again is not news."""
    watched = Watched(_part(_whole()))
    watched.queries = np.empty((1, 3), dtype=np.float32)
    assert watched.run() is False
    assert watched.run() is False
    assert watched.watch.seconds_until_due() > 0
    [line] = watched.reported
    assert line.startswith("recall could not be measured and will be tried again (ValueError")
    watched.queries = QUERIES[:1]
    watched.run()
    assert watched.estimate() == (1.0, 1)


class LossyEngine(BruteForceEngine):
    """Segments that miss unless searched widely."""

    def build(self, vectors: FloatArray, cancelled: object) -> BruteForceSegment:
        """Build one."""
        return Lossy(vectors, enough=1, enough_for_hard=200, hard=QUERIES)


def test_a_collection_shows_its_estimate_and_keeps_what_was_tuned_again(tmp_path: Path) -> None:
    """Segments sealed before anybody asked are tuned once people do; a generation records it, a restart keeps it."""
    reported: list[str] = []
    collection = Collection.open(
        tmp_path, dim=DIM, space_id=SPACE, settings=OFTEN, engine=LossyEngine(), progress=reported.append
    )
    collection.upsert([Record(f"item {at}", VECTORS[at]) for at in range(100)])
    wait_until(lambda: collection.stats().generation is not None)
    before = collection.stats()
    assert [segment.ef for segment in before.segments] == [64]
    assert before.recall is None
    for query in QUERIES[:40]:
        collection.find(Search(query=query, limit=5))
    wait_until(lambda: [segment.ef for segment in collection.stats().segments] == [256])
    assert before.generation is not None
    number = before.generation.number
    wait_until(lambda: (newest := collection.stats().generation) is not None and newest.number > number)

    def is_measured() -> bool:
        estimate = collection.stats().recall
        return estimate is not None and (estimate.recall, estimate.query_count) == (1.0, 40)

    wait_until(is_measured)
    assert any("it is searched with ef 256 from now on" in line for line in reported)
    collection.close()
    again = Collection.open(tmp_path, dim=DIM, space_id=SPACE, settings=OFTEN, engine=BruteForceEngine())
    assert [(segment.ef, segment.recall) for segment in again.stats().segments] == [(256, 1.0)]
    again.close()


def test_building_and_closing_go_before_measuring(tmp_path: Path) -> None:
    """A full tail is sealed while rounds follow one another without a pause, and closing waits for none."""
    settings = IndexSettings(tail_rows_max=50, segments_max=2, recall_interval_seconds=1e-6)
    collection = Collection.open(tmp_path, dim=DIM, space_id=SPACE, settings=settings, engine=BruteForceEngine())
    for first in range(0, 400, 50):
        collection.upsert([Record(f"item {at}", VECTORS[at]) for at in range(first, first + 50)])
        for query in QUERIES[first : first + 10]:
            collection.find(Search(query=query, limit=5))
    wait_until(lambda: collection.stats().tail_row_count == 0 and len(collection.stats().segments) <= 2)
    wait_until(lambda: collection.stats().recall is not None)
    collection.close()
    assert collection.stats().build_failure is None
