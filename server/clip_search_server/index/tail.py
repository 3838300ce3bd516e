"""The exact tail: the newest vectors, appended by one thread and scanned by many; knows nothing of segments.

Rows are only ever appended, and a row's death is a number written in place, so a `TailView` taken earlier stays right
while the tail goes on growing: it sees its own rows, and deaths after its moment have larger sequence numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clip_search_server.index.scoring import best_rows, cosines, scan
from clip_search_server.index.types import FloatArray, IntArray

# The sequence at which a live row died: later than any real one.
NEVER = np.iinfo(np.int64).max

# Rows that room is made for at first. Memory that nothing was written to costs nothing, and to enlarge a tail while
# writes wait for it would cost milliseconds.
_CAPACITY_LEAST = 1 << 15


@dataclass(frozen=True, slots=True, eq=False)
class TailView:
    """The tail as it was at one moment.

    Attributes:
        vectors: float32 (rows, dim) of unit length.
        labels: int64 (rows,), ascending.
        died_at: int64 (rows,), the sequence each row died with, `NEVER` while it lives.
        ids: at least as many ids as rows; later rows are not part of this view.
    """

    vectors: FloatArray
    labels: IntArray
    died_at: IntArray
    ids: Sequence[str]

    @property
    def row_count(self) -> int:
        """Rows, dead ones included."""
        return len(self.labels)

    def live_rows(self, sequence: int) -> IntArray:
        """Return the rows alive at `sequence`."""
        return np.flatnonzero(self.died_at > sequence)

    def candidates(self, query: FloatArray, count: int, sequence: int) -> tuple[IntArray, FloatArray]:
        """Return the live rows that may be among the `count` best, and their cosines."""
        rows = self.candidate_rows(query, count, sequence)
        return rows, cosines(self.vectors[rows], query)

    def candidate_rows(self, query: FloatArray, count: int, sequence: int) -> IntArray:
        """Return the rows that `candidates` does."""
        live = self.live_rows(sequence)
        return live[best_rows(scan(self.vectors, query)[live], count)]

    def label_at(self, row: int) -> int:
        """Return the label of a row."""
        return int(self.labels[row])

    def labels_of(self, rows: IntArray) -> IntArray:  # (count,) -> (count,)
        """Return the labels of these rows."""
        return self.labels[rows]

    def vectors_of(self, rows: IntArray) -> FloatArray:  # (count,) -> (count, dim)
        """Return the vectors of these rows."""
        return self.vectors[rows]

    def id_at(self, row: int) -> str:
        """Return the id of a row."""
        return self.ids[row]


class Tail:
    """The growing end; every method but `copy_after` is called with the state's lock held.

    Args:
        dim: components of a vector.
        capacity: rows that there is room for at first.
    """

    def __init__(self, dim: int, *, capacity: int = _CAPACITY_LEAST) -> None:
        self._vectors = np.empty((capacity, dim), dtype=np.float32)  # (capacity, dim)
        self._labels = np.empty(capacity, dtype=np.int64)  # (capacity,)
        self._died_at = np.empty(capacity, dtype=np.int64)  # (capacity,)
        self._ids: list[str] = []

    def append(self, label: int, item_id: str, vector: FloatArray) -> None:
        """Add a live row; labels come in ascending order."""
        row = len(self._ids)
        if row == len(self._labels):
            self._grow()
        self._vectors[row] = vector
        self._labels[row] = label
        self._died_at[row] = NEVER
        self._ids.append(item_id)

    def kill(self, label: int, sequence: int) -> bool:
        """Note that a row died; return whether the tail held it alive."""
        return kill_row(self._labels[: len(self._ids)], self._died_at, label, sequence)

    def view(self) -> TailView:
        """Return the present rows, without copying them."""
        count = len(self._ids)
        return TailView(self._vectors[:count], self._labels[:count], self._died_at[:count], self._ids)

    def copy_after(self, count: int) -> "Tail":
        """Return a new tail with the rows after the first `count`; this one stays as it is for its views.

        It may be called while rows are appended and die: `catch_up` brings what the copy missed of that.
        """
        rows = slice(count, len(self._ids))  # What is enlarged meanwhile has all of these rows, before and after.
        ids = self._ids[rows]
        rest = Tail(self._vectors.shape[1], capacity=max(_CAPACITY_LEAST, len(ids)))
        rest._vectors[: len(ids)] = self._vectors[rows]
        rest._labels[: len(ids)] = self._labels[rows]
        rest._ids = ids
        return rest

    def catch_up(self, original: TailView, count: int) -> None:
        """Become all that the original holds after its first `count` rows, of which this is an earlier copy."""
        for row in range(count + len(self._ids), original.row_count):
            self.append(original.label_at(row), original.id_at(row), original.vectors[row])
        self._died_at[: len(self._ids)] = original.died_at[count:]

    def _grow(self) -> None:
        # Views keep the old arrays; what dies from now on died after them.
        self._vectors = np.concatenate([self._vectors, np.empty_like(self._vectors)])
        self._labels = np.concatenate([self._labels, np.empty_like(self._labels)])
        self._died_at = np.concatenate([self._died_at, np.empty_like(self._died_at)])


def kill_row(labels: IntArray, died_at: IntArray, label: int, sequence: int) -> bool:
    """Mark the row of `label` dead in ascending `labels`; return whether there was such a row, alive."""
    row = int(np.searchsorted(labels, label))
    if row == len(labels) or labels[row] != label or died_at[row] != NEVER:
        return False
    died_at[row] = sequence
    return True
