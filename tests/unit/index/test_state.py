"""Which views readers get, and what swapping a part in does to them."""

import threading

import numpy as np

from clip_search_server.index.entries import SegmentEntry
from clip_search_server.index.sealed import IdTable, SealedPart, SealedRows
from clip_search_server.index.state import State
from clip_search_server.index.tail import NEVER, Tail
from clip_search_server.index.transaction import Added, Removed
from tests.unit.index.support import DIM, BruteForceSegment, random_vectors

VECTORS = random_vectors(100, seed=1)


def _state() -> State:
    return State([], Tail(DIM), sequence=0, item_count=0)


def _write(state: State, *labels: int) -> None:
    """Add items, one write each, the label being the number of the write."""
    for label in labels:
        state.apply([Added(label, f"item {label}", VECTORS[label])], label)


def _part(*labels: int) -> SealedPart:
    vectors = VECTORS[list(labels)]
    rows = SealedRows(
        np.array(labels), np.arange(len(labels)), IdTable.of(f"item {label}" for label in labels), vectors
    )
    entry = SegmentEntry("name", "brute-force", {}, len(labels), len(labels), {})
    return SealedPart(entry, rows, BruteForceSegment(vectors, 1 << 30), np.full(len(labels), NEVER))


def test_a_reader_gets_the_view_of_its_own_write() -> None:
    """Writes that came after the store was read do not show, so that nothing needs to be tested against the store."""
    state = _state()
    _write(state, 1, 2, 3, 4)
    view = state.view_at_least(2, seconds_max=0)
    assert view is not None
    assert (view.sequence, view.item_count, view.tail.row_count) == (2, 2, 2)
    assert state.view.sequence == 4


def test_a_view_of_long_ago_is_replaced_by_the_newest() -> None:
    """Only a few are kept; who comes too late gets a view that shows more."""
    state = _state()
    _write(state, *range(1, 50))
    view = state.view_at_least(3, seconds_max=0)
    assert view is state.view


def test_a_write_that_is_not_shown_yet_is_waited_for() -> None:
    """The store may be ahead of the view by a moment; for longer there is no view."""
    state = _state()
    assert state.view_at_least(1, seconds_max=0.01) is None
    writer = threading.Timer(0.05, _write, (state, 1))
    writer.start()
    view = state.view_at_least(1, seconds_max=60)
    writer.join()
    assert view is not None
    assert view.sequence == 1


def test_swapping_a_part_in_forgets_older_views() -> None:
    """Else they would keep the rows in memory that the part has taken the place of."""
    state = _state()
    _write(state, 1, 2, 3)
    state.swap(_part(1, 2), retired=(), tail_rows=2)
    view = state.view_at_least(2, seconds_max=0)
    assert view is state.view
    assert [part.row_count for part in view.parts] == [2]
    assert view.tail.labels.tolist() == [3]


def test_what_happens_while_a_part_is_swapped_in_is_not_lost() -> None:
    """Rows that come and die while the rest of the tail is copied are in the new tail, alive or dead as they are."""
    tail = Tail(DIM)
    state = State([], tail, sequence=0, item_count=0)
    _write(state, 1, 2, 3, 4)
    copy_after = tail.copy_after

    def meanwhile(count: int) -> Tail:
        copy = copy_after(count)
        _write(state, 5)
        state.apply([Removed(1, 6), Removed(3, 6)], 6)
        return copy

    tail.copy_after = meanwhile  # type: ignore[method-assign]
    state.swap(_part(1, 2), retired=(), tail_rows=2)
    view = state.view
    assert view.tail.labels.tolist() == [3, 4, 5]
    assert view.tail.labels[view.tail.live_rows(6)].tolist() == [4, 5]
    assert view.live_counts == (1,)
    assert view.item_count == 3
