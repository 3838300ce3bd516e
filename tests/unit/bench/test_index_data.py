import numpy as np
import pytest

from bench.index.data import batches, filter_of, new_pictures, record, texts
from clip_search_server.index import Record
from clip_search_server.index.filters import matches

ROWS, DIM = 500, 32


def _vectors(records: list[Record]) -> bytes:
    return b"".join(np.asarray(each.vector).tobytes() for each in records)


def test_items_are_the_same_every_time_wherever_one_begins() -> None:
    """A collection that was filled in part is filled on with what it lacks."""
    every = [item for batch in batches(ROWS, DIM, first=0, size=64) for item in batch]
    rest = [item for batch in batches(ROWS, DIM, first=333, size=64) for item in batch]
    assert [item.id for item in every] == sorted({item.id for item in every})
    assert len(every) == ROWS
    assert [item.id for item in rest] == [item.id for item in every[333:]]
    assert _vectors(rest) == _vectors(every[333:])


def test_queries_and_new_items_are_others() -> None:
    """Neither is among the items, and each is the same every time."""
    stored = {np.asarray(item.vector).tobytes() for batch in batches(ROWS, DIM, first=0, size=64) for item in batch}
    for make in (texts, new_pictures):
        vectors = make(ROWS, DIM, 50)
        assert vectors.tobytes() == make(ROWS, DIM, 50).tobytes()
        assert stored.isdisjoint(vector.tobytes() for vector in vectors)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_a_filter_allows_its_share(share: float) -> None:
    """Whichever of the filters of a share it is, and another part of the items each time."""
    vector = np.ones(DIM, dtype=np.float32)
    attributes = [record(number, vector).attributes for number in range(5000)]
    allowed = [
        {at for at, each in enumerate(attributes) if matches(filter_of(share, number), each)} for number in (1, 2)
    ]
    for some in allowed:
        assert len(some) / len(attributes) == pytest.approx(share, rel=0.1)
    assert allowed[0] != allowed[1]
