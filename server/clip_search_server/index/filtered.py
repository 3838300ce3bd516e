"""The nearest of those items that a selection allows, out of a view; knows nothing of SQL and of filters.

Two ways lead there. *Fetching* takes every allowed label and compares its vector: exact, and cheap while they are few.
*Testing* takes candidates of all parts, best first, asks the selection about them, and widens those parts that may
still hold a better one until enough are allowed. It is as good as the graphs are, or exact where all vectors are
scanned instead, and it gives up where too few of the candidates are allowed; then fetching is left. So fewer than
wanted come back only where fewer are allowed.

A view may show more than the selection's moment: rows that were added later are not allowed by it, and rows that died
later are still there (`View.complete_since`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clip_search_server.index.scoring import SCORE_SLACK, best_rows, cosines, scan, scan_some
from clip_search_server.index.sealed import SealedPart
from clip_search_server.index.tail import TailView
from clip_search_server.index.types import FloatArray, IntArray
from clip_search_server.index.view import Near, View

# Which of these labels are allowed, in any order.
Test = Callable[[IntArray], IntArray]

# At first four candidates are taken for each hit wanted; later, half as many again as the share allowed asks for.
_FIRST_CANDIDATES = 4
_CANDIDATES_LEAST = 32
_OVERFETCH = 1.5
_WIDENING_LEAST = 2


class _Source(Protocol):
    """A part of a view, for one query."""

    labels: IntArray  # (rows,), ascending

    def best(self, count: int) -> tuple[IntArray, FloatArray, float]:
        """Return about `count` rows that are alive and near, their approximate cosines, and what the rest is below."""
        ...

    def scan_rows(self, rows: IntArray) -> FloatArray:
        """Return the approximate cosines of rows."""
        ...

    def scores(self, rows: IntArray) -> FloatArray:
        """Return the exact cosines of rows."""
        ...

    def id_at(self, row: int) -> str:
        """Return the id of a row."""
        ...


class _Scanned:
    """Rows that were compared with the query one by one."""

    def __init__(self, rows: IntArray, scores: FloatArray) -> None:
        self._rows = rows
        self._scores = scores

    def best(self, count: int) -> tuple[IntArray, FloatArray, float]:
        """Return the best rows, and all that tie with the last of them."""
        if count >= len(self._rows):
            return self._rows, self._scores, -np.inf
        at = best_rows(self._scores, count)
        return self._rows[at], self._scores[at], float(self._scores[at].min())


class _Tail:
    """The exact tail."""

    def __init__(self, tail: TailView, query: FloatArray, sequence: int) -> None:
        self.labels = tail.labels
        self._tail = tail
        self._query = query
        self._sequence = sequence
        self._scanned: _Scanned | None = None

    def best(self, count: int) -> tuple[IntArray, FloatArray, float]:
        if self._scanned is None:
            live = self._tail.live_rows(self._sequence)
            self._scanned = _Scanned(live, scan(self._tail.vectors, self._query)[live])
        return self._scanned.best(count)

    def scan_rows(self, rows: IntArray) -> FloatArray:
        return scan_some(self._tail.vectors, rows, self._query)

    def scores(self, rows: IntArray) -> FloatArray:
        return cosines(self._tail.vectors[rows], self._query)

    def id_at(self, row: int) -> str:
        return self._tail.id_at(row)


class _Part:
    """A sealed part: walked, and scanned where walking does not reach or does not pay, or must not be."""

    def __init__(self, part: SealedPart, query: FloatArray, sequence: int, *, exact: bool) -> None:
        self.labels = part.rows.labels
        self._part = part
        self._query = query
        self._sequence = sequence
        self._exact = exact
        self._scanned: _Scanned | None = None

    def best(self, count: int) -> tuple[IntArray, FloatArray, float]:
        is_walked = not self._exact and self._scanned is None
        rows = self._part.near_rows(self._query, count) if is_walked else None
        if rows is None:
            return self._scan().best(count)
        scores = self._part.scan_rows(self._query, rows)
        is_alive = self._part.died_at[rows] > self._sequence
        return rows[is_alive], scores[is_alive], float(scores.min())

    def _scan(self) -> _Scanned:
        if self._scanned is None:
            live = self._part.live_rows(self._sequence)
            self._scanned = _Scanned(live, self._part.scan_rows(self._query, live))
        return self._scanned

    def scan_rows(self, rows: IntArray) -> FloatArray:
        return self._part.scan_rows(self._query, rows)

    def scores(self, rows: IntArray) -> FloatArray:
        return self._part.scores(rows, self._query)

    def id_at(self, row: int) -> str:
        return self._part.id_at(row)


def nearest_of(view: View, query: FloatArray, count: int, labels: IntArray) -> list[Near]:  # (dim,), (allowed,)
    """Return the `count` nearest of these labels, by falling cosine, ties by id.

    Args:
        view: what to search; it has a row of every label.
        query: of unit length.
        count: hits wanted.
        labels: what is allowed, ascending; its moment may be any that the view is complete for.
    """
    sources = _sources(view, query, view.sequence, exact=True)
    rows = [_rows_of(source.labels, labels) for source in sources]
    pool = _Pool(
        np.repeat(np.arange(len(sources)), [len(some) for some in rows]),
        np.concatenate(rows),
        np.concatenate([source.scan_rows(some) for source, some in zip(sources, rows, strict=True)]),
    )
    return _hits(sources, pool, np.arange(len(pool.rows)), count)


def nearest_tested(
    view: View,
    query: FloatArray,
    count: int,
    test: Test,
    *,
    sequence: int,
    exact: bool,
    first_count: int,
    candidates_max: int,
) -> list[Near] | None:
    """Return the `count` nearest rows that pass the test, as `nearest_of`; None where too few candidates pass it.

    Args:
        view: what to search.
        query: of unit length, (dim,).
        count: hits wanted.
        test: which labels are allowed; of those that died up to `sequence` it is not asked.
        sequence: the test's moment.
        exact: compare with every vector instead of walking the graphs.
        first_count: candidates of a part that cost no more than fewer.
        candidates_max: candidates of a part at most.
    """
    sources = _sources(view, query, sequence, exact=exact)
    asked = np.full(len(sources), max(_FIRST_CANDIDATES * count, _CANDIDATES_LEAST, first_count))
    found: list[tuple[IntArray, FloatArray, float] | None] = [None] * len(sources)
    is_short = np.ones(len(sources), dtype=bool)
    while True:
        for at in np.flatnonzero(is_short):
            found[at] = sources[at].best(int(asked[at]))
        answers = [answer for answer in found if answer is not None]
        pool = _Pool(
            np.repeat(np.arange(len(answers)), [len(rows) for rows, _scores, _rest in answers]),
            np.concatenate([rows for rows, _scores, _rest in answers]),
            np.concatenate([scores for _rows, scores, _rest in answers]),
        )
        passed, tested_count = _passing(sources, pool, count, test)
        cut = pool.scores[passed[count - 1]] if len(passed) >= count else -np.inf
        is_short = np.array([rest > -np.inf and rest >= cut - SCORE_SLACK for _rows, _scores, rest in answers])
        if not is_short.any():
            return _hits(sources, pool, passed, count)
        share = (len(passed) + 1) / (tested_count + 1)
        wanted = max(int(asked[is_short].min()) * _WIDENING_LEAST, int(count / share * _OVERFETCH))
        if wanted > candidates_max:
            return None
        asked[is_short] = np.maximum(asked[is_short], wanted)


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """Candidates of all sources: whose they are, which row, and the approximate cosine; all (candidates,)."""

    owners: IntArray
    rows: IntArray
    scores: FloatArray


def _sources(view: View, query: FloatArray, sequence: int, *, exact: bool) -> list[_Source]:
    parts = (_Part(part, query, sequence, exact=exact) for part in view.parts)
    return [*parts, _Tail(view.tail, query, sequence)]


def _rows_of(labels: IntArray, wanted: IntArray) -> IntArray:  # both ascending -> rows of those that are there
    if not len(labels):
        return np.empty(0, dtype=np.int64)
    if len(labels) < len(wanted):
        rows: IntArray = np.flatnonzero(_is_in(labels, wanted))
        return rows
    return np.searchsorted(labels, wanted[_is_in(wanted, labels)])


def _is_in(labels: IntArray, others: IntArray) -> npt.NDArray[np.bool_]:
    """Return which labels are among the others, which are ascending and not empty."""
    at = np.minimum(np.searchsorted(others, labels), len(others) - 1)
    found: npt.NDArray[np.bool_] = others[at] == labels
    return found


def _passing(sources: list[_Source], pool: _Pool, count: int, test: Test) -> tuple[IntArray, int]:
    """Test candidates, best first, until `count` pass; return those that passed and how many were tested.

    All that may tie with the last of them are tested too: ids decide among those.
    """
    order = np.argsort(-pool.scores, kind="stable")
    labels = np.empty(len(order), dtype=np.int64)
    for at, source in enumerate(sources):
        is_own = pool.owners == at
        labels[is_own] = source.labels[pool.rows[is_own]]
    passed = np.empty(0, dtype=np.int64)
    start, step = 0, max(_FIRST_CANDIDATES * count, _CANDIDATES_LEAST)
    while start < len(order):
        some = order[start : start + step]
        passed = np.concatenate([passed, some[np.isin(labels[some], test(labels[some]))]])
        start += len(some)
        step *= _WIDENING_LEAST
        is_enough = len(passed) >= count
        if (
            is_enough
            and start < len(order)
            and pool.scores[order[start]] < pool.scores[passed[count - 1]] - SCORE_SLACK
        ):
            break
    return passed, start


def _hits(sources: list[_Source], pool: _Pool, places: IntArray, count: int) -> list[Near]:
    """Return the best of these places of the pool, with exact scores."""
    places = places[best_rows(pool.scores[places], count)]
    hits = []
    for at, source in enumerate(sources):
        rows = pool.rows[places[pool.owners[places] == at]]
        if len(rows):
            scores = source.scores(rows)
            hits += [
                Near(int(source.labels[row]), source.id_at(int(row)), float(score))
                for row, score in zip(rows, scores, strict=True)
            ]
    hits.sort(key=lambda hit: (-hit.score, hit.id))
    return hits[:count]
