from clip_search_server.index.tail import Tail
from clip_search_server.index.types import FloatArray
from tests.unit.index.support import DIM, exact_neighbours, random_vectors

QUERY = random_vectors(1, seed=99)[0]


def _tail_of(vectors: FloatArray) -> Tail:
    tail = Tail(DIM, capacity=1024)
    for at, vector in enumerate(vectors):
        tail.append(at + 1, f"item {at}", vector)
    return tail


def test_the_tail_is_scanned_exactly() -> None:
    """The best rows and their cosines are those of a plain scan."""
    vectors = random_vectors(100, seed=1)
    view = _tail_of(vectors).view()
    rows, scores = view.candidates(QUERY, 5, sequence=0)
    found = sorted(zip(scores.tolist(), rows.tolist(), strict=True), reverse=True)[:5]
    wanted = exact_neighbours({f"item {at}": vector for at, vector in enumerate(vectors)}, QUERY, 5)
    assert [(view.id_at(row), score) for score, row in found] == [(hit.id, hit.score) for hit in wanted]


def test_a_view_keeps_its_rows_while_the_tail_grows() -> None:
    """Rows and deaths after a view was taken do not show in it, even when the arrays were enlarged."""
    vectors = random_vectors(3000, seed=2)
    tail = _tail_of(vectors[:1000])
    before = tail.view()
    for at in range(1000, 3000):
        tail.append(at + 1, f"item {at}", vectors[at])
    assert tail.kill(1, sequence=3001)
    assert before.row_count == 1000
    assert len(before.live_rows(1000)) == 1000
    assert tail.view().row_count == 3000
    assert 0 not in tail.view().live_rows(3001)
    assert (tail.view().vectors == vectors).all()


def test_the_rest_of_a_tail_keeps_its_deaths() -> None:
    """Cutting the sealed rows off leaves later rows as they were."""
    vectors = random_vectors(10, seed=3)
    tail = _tail_of(vectors)
    tail.kill(8, sequence=11)
    copy = tail.copy_after(6)
    copy.catch_up(tail.view(), 6)
    rest = copy.view()
    assert rest.labels.tolist() == [7, 8, 9, 10]
    assert rest.live_rows(11).tolist() == [0, 2, 3]
    assert [rest.id_at(row) for row in range(4)] == ["item 6", "item 7", "item 8", "item 9"]
    assert (rest.vectors == vectors[6:]).all()


def test_a_copy_of_the_rest_catches_up() -> None:
    """What is appended and dies while the copy is made is in it afterwards, also where the arrays were enlarged."""
    vectors = random_vectors(2000, seed=4)
    tail = _tail_of(vectors[:900])
    tail.kill(800, sequence=2000)
    copy = tail.copy_after(700)
    for at in range(900, 2000):
        tail.append(at + 1, f"item {at}", vectors[at])
    tail.kill(701, sequence=2001)
    tail.kill(2000, sequence=2002)
    copy.catch_up(tail.view(), 700)
    rest = copy.view()
    assert rest.labels.tolist() == list(range(701, 2001))
    assert rest.id_at(0) == "item 700"
    assert rest.id_at(1299) == "item 1999"
    assert (rest.vectors == vectors[700:]).all()
    assert sorted({*range(1300)} - {*rest.live_rows(3000).tolist()}) == [0, 99, 1299]
    assert 0 in rest.live_rows(2000)
