"""What a nearest-neighbour engine must offer to hold sealed vectors; knows nothing of items, labels or any engine.

A segment numbers its *nodes*, the distinct vectors it was built from, 0 to `node_count` - 1. Which items a node stands
for, which of them are dead, and what the exact scores are is the business of `sealed.py`.

What an engine's own file format cannot detect (a flipped bit, above all) is covered by the digest that the caller has
checked before an engine reads a byte. What a digest cannot tell, an engine must: that the file is one of its own, and
that it holds as many vectors, of as many components, as the manifest says.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from clip_search_server.index.types import FloatArray, IntArray


class BuildCancelledError(Exception):
    """A build, or the tuning after it, was given up; what it had made is discarded."""


class Segment(Protocol):
    """Immutable neighbours of a set of distinct unit vectors; safe to search from many threads."""

    @property
    def node_count(self) -> int:
        """Number of vectors."""
        ...

    @property
    def vectors(self) -> FloatArray | None:
        """The vectors it was built from, float32 (nodes, dim), in its own memory; None where it does not show them.

        They are read and never written, and last as long as anyone refers to them.
        """
        ...

    def nearest(self, query: FloatArray, count: int, ef: int) -> IntArray | None:  # (dim,) -> (count,)
        """Return `count` nodes near the query, nearest first, or None where the engine cannot reach that many.

        Args:
            query: float32 (dim,) of unit length.
            count: nodes wanted.
            ef: candidates to consider, of this call alone; never fewer than `count` are.
        """
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

    def extend(self, path: Path, held: int, vectors: FloatArray, cancelled: Callable[[], bool]) -> Segment:
        """Build as `build` does, starting from a copy of what `save` wrote to `path`.

        Args:
            path: a file that has passed its digest check; it is only read.
            held: how many of the vectors the file holds, the first ones in the same order.
            vectors: all vectors of the new segment, float32 (nodes, dim).
            cancelled: as for `build`.

        Raises:
            DataLossError: the file does not hold `held` vectors of as many components.
        """
        ...

    def load(self, path: Path, *, node_count: int, dim: int) -> Segment:
        """Load what `save` wrote; the caller has checked the file's digest.

        Raises:
            DataLossError: the file does not hold `node_count` vectors of `dim` components.
        """
        ...
