"""Items and queries for the benchmarks of the index, in any number, the same every time; knows nothing of measuring.

Pictures and texts come from `vectors.py`: each item has a picture's vector, people ask with texts. Items have one
attribute, `draw`, a number between 0 and 1 that is as good as random, by which a filter allows any share of them.
"""

from collections.abc import Iterator

from bench.index.vectors import PICTURES_PER_CONCEPT, FloatArray, Parameters, Space
from clip_search_server.index import Bound, Filter, Range, Record

__all__ = ["SPACE", "batches", "filter_of", "item_id", "new_pictures", "record", "texts"]

SPACE = "bench"

_BLOCK = 16_384
_TEXTS_SEED, _NEW_SEED = 2, 3
# Multiples of the golden ratio's fractional part fall evenly between 0 and 1, however many there are.
_GOLDEN = 0.618033988749895


def item_id(number: int) -> str:
    """Return the id of an item."""
    return f"pictures/{number:09d}.jpg"


def record(number: int, vector: FloatArray) -> Record:
    """Return an item with this vector."""
    return Record(item_id(number), vector, {"draw": number * _GOLDEN % 1.0})


def filter_of(share: float, number: int) -> Filter:
    """Return a filter that allows this share of the items, another part of them for each number."""
    low = number * _GOLDEN % 1.0 * (1 - share)
    return Range("draw", Bound(low, inclusive=True), Bound(low + share, inclusive=False))


def batches(rows: int, dim: int, *, first: int, size: int) -> Iterator[list[Record]]:
    """Yield the items from number `first` on to `rows`, in batches of this size, a part of them in memory at a time."""
    space = _space(rows, dim)
    for block in range(0, rows, _BLOCK):
        pictures = space.pictures(min(_BLOCK, rows - block))  # (rows, dim)
        for start in range(0, len(pictures), size):
            batch = [
                record(block + at, pictures[at])
                for at in range(start, min(start + size, len(pictures)))
                if block + at >= first
            ]
            if batch:
                yield batch


def texts(rows: int, dim: int, count: int) -> FloatArray:
    """Return queries about what the first `rows` items show, float32 (count, dim)."""
    return _space(rows, dim).another(_TEXTS_SEED).texts(count)


def new_pictures(rows: int, dim: int, count: int) -> FloatArray:
    """Return vectors that none of the first `rows` items has, float32 (count, dim)."""
    return _space(rows, dim).another(_NEW_SEED).pictures(count)


def _space(rows: int, dim: int) -> Space:
    return Space(Parameters.load(), dim=dim, concepts=max(1, rows // PICTURES_PER_CONCEPT), seed=1)
