"""Queries that a collection was asked lately, by which it is measured and tuned; knows nothing of answering them.

Until enough were asked, it is tuned for those that are likely, too: texts lie apart from the pictures that a segment
holds, so its own vectors alone say too little of how widely it must be searched. What is measured rests on what was
asked.
"""

from collections import deque
from typing import Final

import numpy as np

from clip_search_server.index.types import FloatArray

__all__ = ["RecentQueries"]

_COUNT_MAX: Final = 256


class RecentQueries:
    """The newest few queries of a collection, in memory; safe from any thread."""

    def __init__(self, dim: int) -> None:
        self._none = np.empty((0, dim), dtype=np.float32)
        self._newest: deque[FloatArray] = deque(maxlen=_COUNT_MAX)
        self._noted = 0
        self._likely = self._none

    def note(self, query: FloatArray) -> None:
        """Remember a query (dim,) of unit length, and forget the oldest where there are too many."""
        self._newest.append(query)
        self._noted += 1

    def expect(self, queries: FloatArray) -> None:
        """Take queries (queries, dim) of unit length to be likely, instead of those told before."""
        self._likely = queries

    def count(self) -> int:
        """Return how many were noted so far; threads that note at the same time may count as one."""
        return self._noted

    def newest(self) -> FloatArray:
        """Return the queries, newest last, float32 (queries, dim)."""
        queries = list(self._newest)
        return np.stack(queries) if queries else self._none

    def for_tuning(self) -> FloatArray:
        """Return the likely queries, then those that were asked, newest last, float32 (queries, dim)."""
        return np.concatenate([self._likely, self.newest()])
