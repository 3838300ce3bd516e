"""Answers searches: plans them, and puts vectors, filters and texts of one moment together; knows nothing of writing.

A *moment* is a committed state of the store and a view that is complete for it. The store is read first, which fixes
the moment; the view that is taken then shows that moment and perhaps a little more. What the filter allows, what the
texts match and what the hits say all come from the state, what is near comes from the view: so a hit is never one that
the filter denies, and none is missing that it allowed.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from clip_search_server.errors import DataLossError, UnavailableError
from clip_search_server.index.filtered import nearest_of, nearest_tested
from clip_search_server.index.filters import Filter, matches
from clip_search_server.index.fusion import fuse
from clip_search_server.index.reader import StoreReader
from clip_search_server.index.recent_queries import RecentQueries
from clip_search_server.index.scoring import cosines, unit_vector
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.state import State
from clip_search_server.index.store_state import StoreState
from clip_search_server.index.types import FloatArray, Found, Hit, Search, StoredItem
from clip_search_server.index.view import Near, View
from clip_search_server.spans import Stage

# A committed write is shown within milliseconds; this long only where showing it has failed for good.
_SHOWN_SECONDS_MAX = 10.0
# Another attempt is needed where a segment was built and swapped in between two reads a moment apart.
_ATTEMPTS_MAX = 100


@dataclass(frozen=True, slots=True, eq=False)
class _Moment:
    """A state of the store, and a view that is complete for it."""

    state: StoreState
    view: View
    sequence: int
    next_label: int


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A label and where it stands."""

    label: int
    id: str
    score: float
    relevance: float | None


class Finder:
    """Finds items of one collection; safe from any thread."""

    def __init__(
        self, state: State, reader: StoreReader, settings: IndexSettings, recent: RecentQueries, *, dim: int
    ) -> None:
        self._state = state
        self._reader = reader
        self._settings = settings
        self._recent = recent
        self._dim = dim

    def find(self, search: Search) -> Found:
        """Answer a search whose bounds and filter were checked.

        Raises:
            InvalidArgumentError: naming `query`.
            DataLossError: a hit fails its checksum, or is not what the index of attributes says.
            UnavailableError: the collection is closed, or a committed write could not be shown.
        """
        query = unit_vector(search.query, self._dim, "query")
        self._recent.note(query)
        with self._moment() as moment:
            with Stage("rank", ranking=search.ranking, filtered=search.filter is not None, exact=search.exact):
                ranked = self._ranked(moment, query, search)
            page = ranked[search.offset : search.offset + search.limit]
            with Stage("read", items=len(page)):
                items = moment.state.items_of_labels([each.label for each in page])
            hits = (_hit(item, each, search.filter) for item, each in zip(items, page, strict=True))
            return Found(tuple(hits), moment.sequence)

    def _ranked(self, moment: _Moment, query: FloatArray, search: Search) -> list[_Ranked]:
        match search.ranking:
            case "vector":
                return self._by_vector(moment, query, search, search.offset + search.limit)
            case "text":
                return self._by_text(moment, query, search, search.offset + search.limit)
            case "fused":
                return self._by_both(moment, query, search)

    @contextlib.contextmanager
    def _moment(self) -> Iterator[_Moment]:
        for _ in range(_ATTEMPTS_MAX):
            with self._reader.state() as state:
                sequence, next_label = state.counters()
                view = self._state.view_at_least(sequence, seconds_max=_SHOWN_SECONDS_MAX)
                if view is None:
                    raise UnavailableError("the newest write cannot be searched; restart the server")
                if view.complete_since <= sequence:
                    yield _Moment(state, view, sequence, next_label)
                    return
        raise UnavailableError("segments change faster than they can be searched; try again")

    def _by_vector(self, moment: _Moment, query: FloatArray, search: Search, count: int) -> list[_Ranked]:
        near = self._nearest(moment, query, search, count)
        score_least = search.min_score
        return [
            _Ranked(each.label, each.id, each.score, None)
            for each in near
            if score_least is None or each.score >= score_least
        ]

    def _nearest(self, moment: _Moment, query: FloatArray, search: Search, count: int) -> list[Near]:
        """Choose the way by how many rows are allowed; see `filtered`."""
        state, view = moment.state, moment.view
        if search.filter is None:
            return self._nearest_of_all(moment, query, search, count)
        rows_few = int(self._settings.filter_exact_factor * math.sqrt(view.item_count * count))
        labels = state.few_matching(search.filter, max(rows_few, self._settings.filter_exact_rows_least))
        if labels is None:
            near = self._nearest_tested(moment, query, search, count)
            if near is not None:
                return near
            labels = state.matching(search.filter)
        return nearest_of(view, query, count, labels)

    def _nearest_of_all(self, moment: _Moment, query: FloatArray, search: Search, count: int) -> list[Near]:
        view = moment.view
        if view.sequence == moment.sequence:
            return view.near(query, count, exact=search.exact)
        near = self._nearest_tested(moment, query, search, count)
        return nearest_of(view, query, count, moment.state.labels()) if near is None else near

    def _nearest_tested(self, moment: _Moment, query: FloatArray, search: Search, count: int) -> list[Near] | None:
        return nearest_tested(
            moment.view,
            query,
            count,
            lambda labels: moment.state.matching_among(search.filter, labels),
            sequence=moment.sequence,
            exact=search.exact,
            first_count=self._settings.ef_min,
            candidates_max=max(self._settings.filter_candidates_max, count),
        )

    def _by_text(self, moment: _Moment, query: FloatArray, search: Search, count: int) -> list[_Ranked]:
        """Return the `count` best by the words, of those that reach the least score."""
        # A least score takes some of the matches away, nobody knows how many.
        matches_max = count if search.min_score is None else None
        found = moment.state.best_texts(
            search.words, search.filter, count=matches_max, words_max=self._settings.words_max
        )
        ranked = (
            _Ranked(match.label, match.id, _score(moment.state, match.label, query), match.relevance) for match in found
        )
        score_least = search.min_score
        return list(
            itertools.islice((each for each in ranked if score_least is None or each.score >= score_least), count)
        )

    def _by_both(self, moment: _Moment, query: FloatArray, search: Search) -> list[_Ranked]:
        # A fixed number, so that pages come from one ranking.
        count = max(self._settings.fusion_rows_least, search.offset + search.limit)
        by_vector = self._by_vector(moment, query, search, count)
        by_text = self._by_text(moment, query, search, count)
        relevance = fuse([[each.label for each in ranking] for ranking in (by_vector, by_text)])
        every = {each.label: each for each in [*by_vector, *by_text]}
        fused = [_Ranked(label, each.id, each.score, relevance[label]) for label, each in every.items()]
        return sorted(fused, key=lambda each: (-relevance[each.label], -each.score, each.id))


def _score(state: StoreState, label: int, query: FloatArray) -> float:
    return float(cosines(state.vector(label)[None], query)[0])


def _hit(item: StoredItem, ranked: _Ranked, filter_: Filter | None) -> Hit:
    if filter_ is not None and not matches(filter_, item.attributes):
        raise DataLossError(
            f"item {item.id!r}: the store's index of attributes does not say what its row says; write the item again"
        )
    return Hit(item, ranked.score, ranked.relevance)
