"""What one round of measuring finds: graphs against an exact scan of the same view."""

import numpy as np
import pytest

from clip_search_server.index import recall
from clip_search_server.index.entries import SegmentEntry
from clip_search_server.index.recall import Tally, measure
from clip_search_server.index.sealed import IdTable, SealedPart, SealedRows, share_vectors
from clip_search_server.index.tail import NEVER, Tail, TailView
from clip_search_server.index.types import FloatArray
from clip_search_server.index.view import View
from tests.unit.index.support import DIM, BruteForceSegment, random_vectors
from tests.unit.index.test_tuning import Lossy

SEQUENCE = 5
VECTORS = random_vectors(1000, seed=1)
QUERIES = random_vectors(12, seed=3)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "_BLOCK_BYTES", 4 * DIM * 37)
    monkeypatch.setattr(recall, "_ROWS_AT_ONCE", 41)


def _always() -> bool:
    return True


def _part(name: str, first: int, vectors: FloatArray, *, lossy: bool, dead: int = 0) -> SealedPart:
    """Return a part of these rows, labels from `first` on; equal vectors share a node, the first rows are dead."""
    nodes, firsts = share_vectors(vectors)
    labels = np.arange(first, first + len(vectors))
    rows = SealedRows(labels, nodes, IdTable.of(f"item {label}" for label in labels), vectors[firsts])
    died_at = np.full(len(labels), NEVER)
    died_at[:dead] = SEQUENCE
    entry = SegmentEntry(name, "brute-force", {}, len(labels), len(firsts), {})
    segment = Lossy(rows.vectors, enough=10_000) if lossy else BruteForceSegment(rows.vectors, 1 << 30)
    return SealedPart(entry, rows, segment, died_at)


def _tail(first: int, vectors: FloatArray) -> TailView:
    tail = Tail(DIM)
    for label, vector in enumerate(vectors, first):
        tail.append(label, f"item {label}", vector)
    return tail.view()


def _view(*parts: SealedPart, tail: FloatArray = VECTORS[:0]) -> View:
    live_counts = tuple(len(part.live_rows(SEQUENCE)) for part in parts)
    return View(SEQUENCE, sum(live_counts) + len(tail), parts, live_counts, _tail(10_000, tail))


def test_it_is_what_comparing_the_hits_gives() -> None:
    """Parts with dead rows, one of them missing rows, and a tail: the tallies are those of the ids that came back."""
    lossy = _part("lossy", 0, VECTORS[:500], lossy=True, dead=100)
    whole = _part("whole", 500, VECTORS[500:900], lossy=False, dead=3)
    view = _view(lossy, whole, tail=VECTORS[900:])
    measured = measure(view, QUERIES, _always)
    assert measured is not None
    for query, one in zip(QUERIES, measured, strict=True):
        exact, found = ({hit.id for hit in view.nearest(query, 10, exact=exact)} for exact in (True, False))
        assert one.whole == Tally(len(exact & found), 10)
        alone = _view(lossy)
        exact, found = ({hit.id for hit in alone.nearest(query, 10, exact=exact)} for exact in (True, False))
        assert one.parts == {"lossy": Tally(len(exact & found), 10), "whole": Tally(10, 10)}
    assert sum(one.parts["lossy"].found for one in measured) < 120, "nothing was missed: the test tests nothing"
    assert sum(one.whole.found for one in measured) < 120


def test_rows_that_share_a_vector_all_count() -> None:
    """The ten nearest may be one vector ten times, and of equal rows any will do; the dead ones do not count."""
    vectors = np.concatenate([np.repeat(VECTORS[:1], 12, axis=0), VECTORS[1:200]])
    view = _view(_part("p", 0, vectors, lossy=True, dead=2))
    assert measure(view, VECTORS[:1], _always) == [recall.Measured(Tally(10, 10), {"p": Tally(10, 10)})]
    # Eight live copies are found, the next nearest is missed, the one after that is not.
    more_dead = _view(_part("p", 0, vectors, lossy=True, dead=4))
    assert measure(more_dead, VECTORS[:1], _always) == [recall.Measured(Tally(9, 10), {"p": Tally(9, 10)})]


def test_fewer_rows_than_neighbours_are_wanted_no_more_than_there_are() -> None:
    """Three live rows are three to find; a part without any asks nothing."""
    view = _view(_part("few", 0, VECTORS[:5], lossy=False, dead=2), _part("none", 5, VECTORS[5:9], lossy=False, dead=4))
    [measured] = measure(view, QUERIES[:1], _always) or []
    assert measured == recall.Measured(Tally(3, 3), {"few": Tally(3, 3), "none": Tally(0, 0)})


def test_it_can_be_given_up_anywhere() -> None:
    """Between any two blocks and any two queries `keep_going` is asked, and nothing more is done once it says no."""
    view = _view(_part("a", 0, VECTORS[:300], lossy=False), _part("b", 300, VECTORS[300:500], lossy=False))
    asked: list[int] = []

    def count() -> bool:
        asked.append(1)
        return True

    assert measure(view, QUERIES, count) is not None
    assert len(asked) == 9 + 6 + len(QUERIES)
    for last in range(len(asked)):
        answers = iter([True] * last + [False])
        assert measure(view, QUERIES, lambda answers=answers: next(answers)) is None  # type: ignore[misc]
