import numpy as np
import pytest

from clip_search_server.index.entries import SegmentEntry, Tuning
from clip_search_server.index.sealed import IdTable, SealedPart, SealedRows, share_vectors
from clip_search_server.index.tail import NEVER, Tail
from clip_search_server.index.types import FloatArray
from clip_search_server.index.view import View
from tests.unit.index.support import DIM, BruteForceSegment, exact_neighbours, random_vectors

ENTRY = SegmentEntry("name", "brute-force", {}, 0, 0, {})
QUERY = random_vectors(1, seed=99)[0]


def _part_of(vectors: FloatArray, *, reachable_max: int = 1 << 30) -> tuple[SealedPart, BruteForceSegment]:
    """Return a part whose row n has label n + 1 and id "item n"."""
    nodes, firsts = share_vectors(vectors)
    rows = SealedRows(
        np.arange(1, len(vectors) + 1), nodes, IdTable.of(f"item {at}" for at in range(len(vectors))), vectors[firsts]
    )
    segment = BruteForceSegment(vectors[firsts], reachable_max)
    return SealedPart(ENTRY, rows, segment, np.full(len(vectors), NEVER)), segment


def _view_of(part: SealedPart, sequence: int) -> View:
    live_count = len(part.live_rows(sequence))
    return View(sequence, live_count, (part,), (live_count,), Tail(DIM).view())


def test_the_id_table_gives_back_every_id() -> None:
    """Ids of any script and length survive packing."""
    ids = ["a", "ключ", "鍵" * 170, "\x00", "z" * 512]
    table = IdTable.of(ids)
    assert [table[row] for row in range(len(table))] == ids
    assert len(IdTable.of([])) == 0


def test_equal_vectors_share_a_node() -> None:
    """Nodes are numbered by first appearance, and each knows the first row with its vector."""
    vectors = random_vectors(3, seed=1)[[0, 1, 0, 2, 1]]
    nodes, firsts = share_vectors(vectors)
    assert nodes.tolist() == [0, 1, 0, 2, 1]
    assert firsts.tolist() == [0, 1, 3]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("dead_share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("distinct", [200, 20, 1])
def test_never_fewer_than_wanted_while_enough_live(exact: bool, dead_share: float, distinct: int) -> None:
    """However many rows are dead or share a vector, the best live ones are found."""
    vectors = random_vectors(distinct, seed=2)[np.arange(200) % distinct]
    part, _segment = _part_of(vectors)
    alive = np.random.default_rng(3).random(200) >= dead_share
    for row in np.flatnonzero(~alive):
        assert part.kill(int(row) + 1, sequence=5)
    model = {f"item {row}": vectors[row] for row in np.flatnonzero(alive)}
    for count in (1, 7, 50, 500):
        assert _view_of(part, 5).nearest(QUERY, count, exact=exact) == exact_neighbours(model, QUERY, count)


def test_nodes_need_not_be_in_the_order_of_rows() -> None:
    """With as many nodes as rows but in another order, as merging may leave them, each row has its own vector."""
    vectors = random_vectors(200, seed=11)
    nodes = np.random.default_rng(12).permutation(200)
    rows = SealedRows(np.arange(1, 201), nodes, IdTable.of(f"item {at}" for at in range(200)), vectors)
    part = SealedPart(ENTRY, rows, BruteForceSegment(vectors, 1 << 30), np.full(200, NEVER))
    model = {f"item {row}": vectors[nodes[row]] for row in range(200)}
    for exact in (False, True):
        assert _view_of(part, 0).nearest(QUERY, 10, exact=exact) == exact_neighbours(model, QUERY, 10)


def test_an_older_view_sees_what_it_saw() -> None:
    """A death hides its row from views of its sequence or later, and from no earlier one."""
    part, _segment = _part_of(random_vectors(10, seed=4))
    before = _view_of(part, 7)
    best = before.nearest(QUERY, 1, exact=True)[0]
    assert part.kill(int(best.id.split()[1]) + 1, sequence=8)
    assert before.nearest(QUERY, 1, exact=True)[0] == best
    assert best not in _view_of(part, 8).nearest(QUERY, 10, exact=True)


def test_the_graph_is_asked_for_more_when_the_nearest_are_dead() -> None:
    """Where all of the first answer is dead, the question is widened before everything is scanned."""
    vectors = random_vectors(1000, seed=5)
    part, segment = _part_of(vectors)
    for row in np.argsort(-(vectors @ QUERY))[:60]:
        part.kill(int(row) + 1, sequence=1)
    assert len(_view_of(part, 1).nearest(QUERY, 5, exact=False)) == 5
    assert len(segment.asked) > 1
    assert segment.asked == sorted(segment.asked)


def test_a_graph_that_reaches_too_few_is_passed_over() -> None:
    """Where the engine cannot give enough nodes, all vectors are scanned."""
    vectors = random_vectors(100, seed=6)
    part, segment = _part_of(vectors, reachable_max=3)
    model = {f"item {row}": vector for row, vector in enumerate(vectors)}
    assert _view_of(part, 0).nearest(QUERY, 10, exact=False) == exact_neighbours(model, QUERY, 10)
    assert segment.asked


def test_exact_search_never_asks_the_graph() -> None:
    """`exact` bypasses the engine."""
    part, segment = _part_of(random_vectors(100, seed=7))
    _view_of(part, 0).nearest(QUERY, 10, exact=True)
    assert segment.asked == []


def test_a_row_dies_once() -> None:
    """A second death of the same row, or of an unknown label, is no death."""
    part, _segment = _part_of(random_vectors(3, seed=8))
    assert part.kill(2, sequence=1)
    assert not part.kill(2, sequence=2)
    assert not part.kill(99, sequence=2)
    assert part.died_at.tolist() == [NEVER, 1, NEVER]


@pytest.mark.parametrize(("ef", "is_scanned"), [(256, False), (257, True)])
def test_a_wide_search_of_a_small_segment_scans_it(ef: int, is_scanned: bool) -> None:
    """Where a walk would cost more than comparing all vectors, all are compared."""
    vectors = random_vectors(8192, seed=5)
    part, segment = _part_of(vectors)
    part.tune(Tuning(ef=ef, recall=1.0, recall_target=0.98))
    (hit,) = _view_of(part, 0).nearest(QUERY, 1, exact=False)
    assert hit.id == f"item {int(np.argmax(vectors @ QUERY))}"
    assert bool(segment.asked) is not is_scanned
