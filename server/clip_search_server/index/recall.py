"""How well graphs answer: queries asked of the graphs and of an exact scan, both of one view.

Knows nothing of when to measure, nor of what follows from it.

A row that was found is right where its cosine is no worse than that of the last row that should have been found: of
rows equally near any will do (Aumüller, Bernhardsson & Faithfull, "ANN-Benchmarks", arXiv:1807.05614).

The scan is kind to those who search meanwhile. It computes on one thread, in blocks small enough for a processor's
cache that all queries share, without the interpreter's lock; what it allocates is bounded by a block and eight bytes a
vector; and after each block it asks whether to go on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from clip_search_server.index.scoring import SCORE_SLACK
from clip_search_server.index.sealed import SealedPart
from clip_search_server.index.types import FloatArray
from clip_search_server.index.view import View

__all__ = ["KeepGoing", "Measured", "Tally", "measure"]

# Asked after each small piece of work; may pause, and says False where the rest is to be given up.
KeepGoing = Callable[[], bool]

_NEIGHBOURS: Final = 10
_BLOCK_BYTES: Final = 1 << 20
_ROWS_AT_ONCE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Tally:
    """Neighbours that were found, of those there were to find."""

    found: int
    wanted: int


@dataclass(frozen=True, slots=True)
class Measured:
    """How one query fared: in the whole view, the tail included, and in each sealed part by its segment's name."""

    whole: Tally
    parts: dict[str, Tally]


def measure(view: View, queries: FloatArray, keep_going: KeepGoing) -> list[Measured] | None:
    """Return how each query fares against an exact scan of the same view, or None where it was given up.

    Args:
        view: is searched as people's searches do, and scanned.
        queries: float32 (queries, dim) of unit length.
        keep_going: asked again and again.
    """
    truth = []
    for part in view.parts:
        scores = _true_scores(part, queries, view.sequence, keep_going)
        if scores is None:
            return None
        truth.append(scores)
    measured = []
    for at, query in enumerate(queries):
        if not keep_going():
            return None
        measured.append(_measured(view, query, [scores[at] for scores in truth]))
    return measured


def _measured(view: View, query: FloatArray, truth: Sequence[FloatArray]) -> Measured:
    found = [
        _best(part.candidates(query, _NEIGHBOURS, view.sequence, live_count=live_count, exact=False)[1])
        for part, live_count in zip(view.parts, view.live_counts, strict=True)
    ]
    tail = _best(view.tail.candidates(query, _NEIGHBOURS, view.sequence)[1])
    return Measured(
        whole=_tally(_best(np.concatenate([*found, tail])), _best(np.concatenate([*truth, tail]))),
        parts={part.entry.name: _tally(*scores) for part, *scores in zip(view.parts, found, truth, strict=True)},
    )


def _true_scores(
    part: SealedPart, queries: FloatArray, sequence: int, keep_going: KeepGoing
) -> list[FloatArray] | None:
    """Return for each query the cosines of the live rows nearest to it, descending, at most `_NEIGHBOURS` of them."""
    vectors = np.asarray(part.rows.vectors)  # (nodes, dim), without the map's slow slicing
    live_rows = _live_rows_by_node(part, sequence)
    best = [np.empty(0, dtype=np.float32) for _query in queries]
    nodes_at_once = max(1, _BLOCK_BYTES // vectors[:1].nbytes)
    for start in range(0, len(vectors), nodes_at_once):
        if not keep_going():
            return None
        block = vectors[start : start + nodes_at_once]
        counts = live_rows[start : start + nodes_at_once]
        for at, query in enumerate(queries):
            best[at] = _better(best[at], np.vecdot(block, query), counts)
    return best


def _better(best: FloatArray, scores: FloatArray, counts: npt.NDArray[np.int32]) -> FloatArray:
    """Return the best of `best` and of these nodes' scores, each as often as the node has live rows."""
    is_hopeful = counts > 0
    if len(best) == _NEIGHBOURS:
        is_hopeful &= scores > best[-1]
    hopeful = np.flatnonzero(is_hopeful)
    if len(hopeful) == 0:
        return best
    return _best(np.concatenate([best, np.repeat(scores[hopeful], np.minimum(counts[hopeful], _NEIGHBOURS))]))


def _live_rows_by_node(part: SealedPart, sequence: int) -> npt.NDArray[np.int32]:
    counts = np.zeros(len(part.rows.vectors), dtype=np.int32)
    # A little at a time, because counting holds the interpreter's lock.
    for start in range(0, part.row_count, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        np.add.at(counts, part.rows.nodes[rows][part.died_at[rows] > sequence], 1)
    return counts


def _best(scores: FloatArray) -> FloatArray:  # (any,) -> (at most _NEIGHBOURS,)
    return np.sort(scores)[::-1][:_NEIGHBOURS]


def _tally(found: FloatArray, truth: FloatArray) -> Tally:
    if len(truth) == 0:
        return Tally(0, 0)
    return Tally(min(int(np.count_nonzero(found >= truth[-1] - SCORE_SLACK)), len(truth)), len(truth))
