"""What a nearest-neighbour engine must offer to hold sealed vectors; knows nothing of items, labels or any engine.

A segment numbers its *nodes*, the distinct vectors it was built from, 0 to `node_count` - 1. Which items a node stands
for, which of them are dead, and what the exact scores are is the business of `sealed.py`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from clip_search_server.index.types import FloatArray, IntArray


class BuildCancelledError(Exception):
    """A build was given up because the collection closes; what it had made is discarded."""


class Segment(Protocol):
    """Immutable neighbours of a set of distinct unit vectors; safe to search from many threads."""

    @property
    def node_count(self) -> int:
        """Number of vectors."""
        ...

    def nearest(self, query: FloatArray, count: int) -> IntArray | None:  # (dim,) -> (count,)
        """Return `count` nodes near the query, or None where the engine cannot reach that many."""
        ...

    def save(self, path: Path) -> None:
        """Write the whole segment to `path`; raise OSError if the disk did not take every byte."""
        ...


class SegmentEngine(Protocol):
    """Makes segments."""

    @property
    def name(self) -> str:
        """The engine's name, kept with every segment it wrote."""
        ...

    @property
    def parameters(self) -> Mapping[str, int]:
        """What segments are built with, kept with every segment."""
        ...

    def build(self, vectors: FloatArray, cancelled: Callable[[], bool]) -> Segment:  # (nodes, dim)
        """Build a segment of one or more distinct unit vectors; raise BuildCancelledError soon after `cancelled()`."""
        ...

    def load(self, path: Path, *, node_count: int, dim: int) -> Segment:
        """Load what `save` wrote; the caller has checked the file's digest.

        Raises:
            DataLossError: the file does not hold `node_count` vectors of `dim` components.
        """
        ...
