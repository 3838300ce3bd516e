"""What is built when, from which rows, and starting from which graph."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from clip_search_server.index import Collection, IndexSettings, Record
from clip_search_server.index.entries import SegmentEntry
from clip_search_server.index.sealed import IdTable, SealedPart, SealedRows, share_vectors
from clip_search_server.index.sealing import Job, base_of, gather, next_job, quiet_job
from clip_search_server.index.settings import EngineChoice
from clip_search_server.index.tail import NEVER, Tail, TailView
from clip_search_server.index.view import View
from tests.unit.index.conftest import OpenCollection
from tests.unit.index.engine_cases import ENGINES
from tests.unit.index.support import (
    DIM,
    BruteForceEngine,
    BruteForceSegment,
    exact_neighbours,
    model_of,
    random_vectors,
    wait_until,
)

VECTORS = random_vectors(1200, seed=1)
QUERIES = random_vectors(8, seed=2)
SETTINGS = IndexSettings(tail_rows_max=100, segments_max=4, dead_share_max=0.3)
ENGINE = BruteForceEngine()


def _part(first: int, last: int, *, dead: int = 0, step: int = 1, engine: str = ENGINE.name) -> SealedPart:
    """Return a part of the labels `first` to `last`, each with the vector of its number; the first ones are dead."""
    labels = np.arange(first, last, step)
    nodes, firsts = share_vectors(VECTORS[labels])
    rows = SealedRows(labels, nodes, IdTable.of(f"item {at}" for at in labels), VECTORS[labels][firsts])
    died_at = np.full(len(labels), NEVER)
    died_at[:dead] = 1
    entry = SegmentEntry("name", engine, {}, len(labels), len(firsts), {})
    return SealedPart(entry, rows, BruteForceSegment(rows.vectors, 1 << 30), died_at)


def _shuffled(part: SealedPart) -> SealedPart:
    """Return the part with its nodes in another order than its rows, as merging leaves them, two rows sharing one."""
    order = np.random.default_rng(5).permutation(len(part.rows.vectors))
    nodes = np.argsort(order)[part.rows.nodes]
    nodes[-1] = nodes[-2]
    vectors = np.delete(part.rows.vectors[order], np.argsort(order)[-1], axis=0)
    nodes[nodes > np.argsort(order)[-1]] -= 1
    rows = SealedRows(part.rows.labels, nodes, part.rows.ids, vectors)
    return SealedPart(part.entry, rows, BruteForceSegment(vectors, 1 << 30), part.died_at)


def _tail(first: int, last: int) -> TailView:
    tail = Tail(DIM)
    for label in range(first, last):
        tail.append(label, f"item {label}", VECTORS[label])
    return tail.view()


def _view(*parts: SealedPart, tail: TailView | None = None) -> View:
    live_counts = tuple(len(part.live_rows(5)) for part in parts)
    return View(5, sum(live_counts), parts, live_counts, tail or _tail(0, 0))


def test_nothing_is_built_while_all_bounds_hold() -> None:
    """A short tail and few, fresh segments are left alone."""
    assert next_job(_view(*(_part(at, at + 10) for at in range(0, 40, 10)), tail=_tail(50, 149)), SETTINGS) is None


def test_a_full_tail_goes_before_merging() -> None:
    """One segment too many can wait, the tail cannot: ingest would."""
    parts = [_part(at, at + 10) for at in range(0, 50, 10)]
    assert next_job(_view(*parts, tail=_tail(100, 200)), SETTINGS) == Job(100, ())
    job = next_job(_view(*parts, tail=_tail(100, 199)), SETTINGS)
    assert job == Job(0, tuple(parts[:3]))


def test_far_too_many_segments_go_before_a_full_tail() -> None:
    """However fast items arrive, segments stay bounded: at twice the bound, merging comes first."""
    parts = [_part(at, at + 10) for at in range(0, 80, 10)]
    job = next_job(_view(*parts, tail=_tail(100, 250)), SETTINGS)
    assert job is not None
    assert job.tail_rows == 0
    assert len(job.retired) == 6
    assert next_job(_view(*parts[1:], tail=_tail(100, 250)), SETTINGS) == Job(150, ())


def test_segments_with_many_dead_rows_are_rebuilt_together() -> None:
    """Above the share they go, and no graph is copied for it."""
    stale = [_part(0, 10, dead=4), _part(10, 20, dead=10)]
    view = _view(_part(20, 30, dead=3), *stale)
    job = next_job(view, SETTINGS)
    assert job == Job(0, tuple(stale))
    assert base_of(view, job, ENGINE, SETTINGS) is None


def test_what_can_wait_is_the_segment_with_most_dead_rows() -> None:
    """One at a time, the worst first, and none whose dead rows are few."""
    settings = IndexSettings(dead_share_quiet_max=0.1)
    few, some, more = _part(0, 100, dead=10), _part(100, 200, dead=11), _part(200, 300, dead=12)
    assert quiet_job(_view(), settings) is None
    assert quiet_job(_view(few), settings) is None
    assert quiet_job(_view(few, some, more), settings) == Job(0, (more,))
    assert next_job(_view(few, some, more), settings) is None


@pytest.mark.parametrize(
    ("largest", "is_copied"),
    [
        (_part(0, 100, dead=15), True),
        (_part(0, 100, dead=16), False),
        (_part(0, 100, engine="another"), False),
    ],
    ids=["fresh", "half-way to stale", "of another engine"],
)
def test_the_largest_graph_is_copied_where_that_is_worth_it(largest: SealedPart, is_copied: bool) -> None:
    """It must be fresh, and of the engine that builds now."""
    view = _view(_part(200, 210), largest, _part(220, 230))
    base = base_of(view, Job(0, view.parts), ENGINE, SETTINGS)
    assert base is (largest if is_copied else None)


def test_a_graph_built_with_other_parameters_is_not_copied() -> None:
    """A change of the build settings reaches segments as they are merged."""
    engine = BruteForceEngine()
    engine.parameters = {"graph_links": 32}
    view = _view(_part(0, 100), _part(200, 210))
    assert base_of(view, Job(0, view.parts), engine, SETTINGS) is None


@pytest.mark.parametrize("copied", [False, True])
def test_a_merged_part_answers_for_all_its_rows(copied: bool) -> None:
    """Interleaved labels, dead rows and vectors shared between parts: the joined rows find what a scan finds."""
    base = _shuffled(_part(1, 300, step=2, dead=10))
    others = [_part(0, 300, step=6, dead=5), _part(300, 400)]
    duplicate = SealedRows(
        np.array([500, 501, 502]), np.array([0, 1, 0]), IdTable.of(["x", "y", "z"]), VECTORS[[1, 301]]
    )
    twin = SealedPart(base.entry, duplicate, BruteForceSegment(duplicate.vectors, 9), np.full(3, NEVER))
    parts = (base, *others, twin)
    view = _view(*parts, tail=_tail(600, 700))
    rows = gather(view, Job(100, parts), base if copied else None)
    assert rows is not None
    assert np.all(np.diff(rows.labels) > 0)
    assert len(np.unique(rows.vectors, axis=0)) == len(rows.vectors), "equal vectors did not share a node"
    live = sum(len(part.live_rows(5)) for part in parts) + 100
    assert len(rows.labels) == live + (10 if copied else 0)
    if copied:
        assert np.array_equal(rows.vectors[: len(base.rows.vectors)], base.rows.vectors)
    died_at = np.where(np.isin(rows.labels, base.rows.labels[:10]), 1, NEVER)
    made = SealedPart(base.entry, rows, BruteForceSegment(rows.vectors, 1 << 30), died_at)
    merged = View(5, live, (made,), (live,), _tail(0, 0))
    for query in QUERIES:
        for count in (1, 7, 60, 1000):
            for exact in (False, True):
                assert merged.nearest(query, count, exact=exact) == view.nearest(query, count, exact=True)


def _fill(collection: Collection, last: int, *, step: int = 50) -> None:
    for first in range(0, last, step):
        collection.upsert([Record(f"item {at}", VECTORS[at]) for at in range(first, first + step)])
        wait_until(lambda: collection.stats().tail_row_count < 50)


def _settled(collection: Collection, segments_max: int) -> bool:
    stats = collection.stats()  # One moment: a seal between two of them would look settled.
    return stats.tail_row_count < 50 and len(stats.segments) <= segments_max


def _is_right(collection: Collection) -> bool:
    model = model_of(collection)
    return all(
        list(collection.search(query, limit=15, exact=exact).neighbours) == exact_neighbours(model, query, 15)
        for query in QUERIES
        for exact in (False, True)
    )


@pytest.mark.parametrize("name", [*ENGINES, "brute-force"])
def test_merging_copies_and_inserts(open_collection: OpenCollection, name: str) -> None:
    """Growing by merges, with deletes and updates in between and a restart, never loses or doubles an item."""
    engine = BruteForceEngine() if name == "brute-force" else None
    chosen = cast(EngineChoice, "auto" if engine else name)
    settings = IndexSettings(tail_rows_max=50, segments_max=3, ef_min=400, build_threads=1, engine=chosen)
    collection = open_collection(settings, engine=engine)
    _fill(collection, 600)
    collection.delete([f"item {at}" for at in range(0, 600, 29)])
    collection.upsert([Record(f"item {at}", VECTORS[at - 1]) for at in range(300, 330)])
    _fill(collection, 300)
    collection.upsert([Record(f"new {at}", VECTORS[at]) for at in range(600, 900)])
    wait_until(lambda: _settled(collection, 3))
    assert collection.stats().build_failure is None
    assert _is_right(collection)
    if engine:
        assert engine.extended, "nothing was copied"
        assert all(held < count for held, count in engine.extended)
    collection.snapshot()
    collection.close()
    collection = open_collection(settings, engine=engine)
    assert collection.stats().damage == ()
    assert _is_right(collection)


def test_deaths_before_and_during_a_merge_stay_deaths(open_collection: OpenCollection) -> None:
    """Rows that were dead in the copied graph stay dead, and so do those that die while it is copied."""
    deleted: list[str] = []
    holder: list[Collection] = []

    def delete_some() -> None:
        if holder and len(deleted) < 200:
            ids = [f"item {len(deleted) + at}" for at in range(10)]
            deleted.extend(ids)
            holder[0].delete(ids)

    engine = BruteForceEngine(delete_some)
    collection = open_collection(IndexSettings(tail_rows_max=50, segments_max=2, dead_share_max=0.9), engine=engine)
    holder.append(collection)
    for first in range(200, 1000, 50):
        collection.upsert([Record(f"item {at}", VECTORS[at]) for at in (*range(first, first + 50), *range(10))])
        wait_until(lambda: collection.stats().tail_row_count < 50)
    wait_until(lambda: len(collection.stats().segments) <= 2)
    holder.clear()
    assert engine.extended
    assert _is_right(collection)


def test_a_damaged_graph_is_never_copied(open_collection: OpenCollection, tmp_path: Path, reported: list[str]) -> None:
    """The file's digest is checked again before it is copied; if it fails, the merged graph is built from the rows."""
    engine = BruteForceEngine()
    collection = open_collection(IndexSettings(tail_rows_max=50, segments_max=3), engine=engine)
    _fill(collection, 150)
    for path in (tmp_path / "collection" / "segments").glob("*.graph"):
        whole = bytearray(path.read_bytes())
        whole[-1] ^= 1
        path.write_bytes(whole)
    collection.upsert([Record(f"item {at}", VECTORS[at]) for at in range(150, 200)])
    wait_until(lambda: _settled(collection, 3))
    assert engine.extended == []
    assert any("built anew instead of copied" in line and "SHA-256" in line for line in reported)
    assert _is_right(collection)


def test_the_segment_count_stays_bounded_while_items_pour_in(open_collection: OpenCollection) -> None:
    """With a tail that is always full, merging still gets its turn, and ingest waits for it."""
    collection = open_collection(IndexSettings(tail_rows_max=10, segments_max=2), engine=BruteForceEngine())
    seen = 0
    tail = 0
    for first in range(0, 1200, 10):
        collection.upsert([Record(f"item {at}", VECTORS[at]) for at in range(first, first + 10)])
        stats = collection.stats()
        seen, tail = max(seen, len(stats.segments)), max(tail, stats.tail_row_count)
    assert seen <= 4
    assert tail <= 30
    assert _is_right(collection)


def _dead_rows(collection: Collection) -> int:
    return sum(part.row_count - part.live_count for part in collection.stats().segments)


def test_dead_rows_go_when_nobody_writes(open_collection: OpenCollection) -> None:
    """Too few to matter while items come in, they are left out once there is time; the next opening finds none."""
    settings = IndexSettings(tail_rows_max=50, segments_max=3, quiet_seconds=0.05, dead_share_max=0.9)
    collection = open_collection(settings, engine=BruteForceEngine())
    _fill(collection, 200)
    collection.delete([f"item {at}" for at in range(0, 200, 5)])
    wait_until(lambda: _dead_rows(collection) == 0)
    wait_until(lambda: _names_published(collection))
    assert _is_right(collection)
    collection.close()
    collection = open_collection(settings, engine=BruteForceEngine())
    assert _dead_rows(collection) == 0
    assert _is_right(collection)


def _names_published(collection: Collection) -> bool:
    """Return whether the newest generation is of the present segments."""
    stats = collection.stats()
    return stats.generation is not None and stats.generation.file_bytes - stats.generation.path.stat().st_size == sum(
        part.file_bytes for part in stats.segments
    )


def test_a_few_dead_rows_stay(open_collection: OpenCollection) -> None:
    """Below the share that is worth it, no segment is built anew however long nobody writes."""
    settings = IndexSettings(tail_rows_max=50, segments_max=3, quiet_seconds=0.01)
    engine = BruteForceEngine()
    collection = open_collection(settings, engine=engine)
    _fill(collection, 100)
    collection.delete(["item 0", "item 50"])
    wait_until(lambda: collection.snapshot().sequence == collection.sequence)
    collection._builder._woken.set()
    wait_until(lambda: not collection._builder._woken.is_set())
    assert _dead_rows(collection) == 2


def test_what_can_wait_is_given_up_for_a_full_tail(open_collection: OpenCollection) -> None:
    """Items that come while dead rows are left out are sealed first; the rest is done afterwards."""
    holder: list[Collection] = []
    builds: list[int] = []

    def come_meanwhile() -> None:
        builds.append(len(holder))
        if holder:
            collection = holder.pop()
            collection.upsert([Record(f"item {at}", VECTORS[at]) for at in range(100, 150)])

    settings = IndexSettings(tail_rows_max=50, segments_max=3, quiet_seconds=0.05, dead_share_max=0.9)
    collection = open_collection(settings, engine=BruteForceEngine(come_meanwhile))
    _fill(collection, 100)
    holder.append(collection)
    collection.delete([f"item {at}" for at in range(10)])
    wait_until(lambda: _dead_rows(collection) == 0 and collection.stats().tail_row_count == 0)
    # Two seals, the attempt in which items came, their seal, and the attempt that succeeded.
    assert builds == [0, 0, 1, 0, 0]
    assert collection.stats().build_failure is None
    assert _is_right(collection)
