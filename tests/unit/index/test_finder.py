"""Searches with filters and texts: against a plain reading of every item, and while everything changes."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import get_args

import apsw
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip_search_server.errors import DataLossError, InvalidArgumentError, UnavailableError
from clip_search_server.index import (
    AllOf,
    Attributes,
    Bound,
    Collection,
    Equals,
    Exists,
    Filter,
    Hit,
    IndexSettings,
    Not,
    OneOf,
    Range,
    Ranking,
    Record,
    Search,
)
from clip_search_server.index.filtered import nearest_tested
from clip_search_server.index.types import FloatArray, IntArray
from tests.unit.index.conftest import OpenCollection
from tests.unit.index.filter_data import allows, attributes, filters
from tests.unit.index.support import (
    BruteForceEngine,
    clustered_vectors,
    exact_neighbours,
    random_vectors,
    wait_until,
)

VECTORS = random_vectors(1000, seed=1)
QUERY = random_vectors(1, seed=99)[0]
QUERIES = random_vectors(12, seed=98)

# Never few enough to be fetched, so that candidates are tested; and always.
TESTING = IndexSettings(tail_rows_max=64, filter_exact_rows_least=1, filter_exact_factor=1e-9)
FETCHING = IndexSettings(tail_rows_max=64, filter_exact_rows_least=10_000)


def _records(count: int) -> list[Record]:
    """Item n has the facts `n`, its tenth and its parity, and every hundredth is rare."""
    return [
        Record(
            f"item {at:04d}",
            VECTORS[at],
            {"n": at, "tenth": at % 10, "even": at % 2 == 0, **({"rare": ("yes", "sir")} if at % 100 == 7 else {})},
        )
        for at in range(count)
    ]


def _filled(open_collection: OpenCollection, settings_: IndexSettings, count: int = 640) -> Collection:
    """Return a collection of several segments and a tail."""
    collection = open_collection(settings_, engine=BruteForceEngine())
    records = _records(count)
    for first in range(0, count, 40):
        collection.upsert(records[first : first + 40])
    _settle(collection)
    collection.delete([f"item {at:04d}" for at in range(3, count, 17)])
    return collection


def _settle(collection: Collection) -> None:
    wait_until(lambda: collection.stats().tail_row_count < 64)


def _wanted(collection: Collection, filter_: Filter | None, query: FloatArray, count: int) -> list[tuple[str, float]]:
    """Return what a search must find, by reading everything."""
    items = collection.list_items(limit=10_000)
    model = {item.id: item.vector for item in items if filter_ is None or allows(filter_, item.attributes)}
    return [(hit.id, hit.score) for hit in exact_neighbours(model, query, count)]


def _pairs(hits: tuple[Hit, ...]) -> list[tuple[str, float]]:
    return [(hit.item.id, hit.score) for hit in hits]


FILTERS: list[Filter] = [
    Equals("tenth", 3),
    Equals("tenth", 3.0),
    Equals("n", 7),
    Equals("even", value=True),
    OneOf("n", (1, 2, "3", 5, 777)),
    Range("n", Bound(100, inclusive=True), Bound(110, inclusive=False)),
    Range("n", Bound(20, inclusive=False), None),
    Exists("rare"),
    Equals("rare", "sir"),
    Not(Exists("rare")),
    Not(Range("n", Bound(5, inclusive=True), None)),
    AllOf((Equals("even", value=True), Equals("tenth", 4), Not(Range("n", None, Bound(300, inclusive=True))))),
    Equals("absent", 1),
    Not(Equals("absent", 1)),
]


@pytest.mark.parametrize("settings_", [TESTING, FETCHING, IndexSettings(tail_rows_max=64)])
@pytest.mark.parametrize("exact", [False, True])
def test_every_plan_finds_what_reading_everything_finds(
    open_collection: OpenCollection, settings_: IndexSettings, exact: bool
) -> None:
    """Whether rows are fetched or candidates tested, hits, scores and order are those of a plain comparison."""
    collection = _filled(open_collection, settings_)
    for filter_ in FILTERS:
        for query in QUERIES[:3]:
            found = collection.find(Search(query, limit=10, filter=filter_, exact=exact))
            assert _pairs(found.hits) == _wanted(collection, filter_, query, 10), filter_
            assert found.sequence == collection.sequence
    pages = [collection.find(Search(QUERY, limit=30, offset=at, filter=FILTERS[6])).hits for at in range(0, 700, 30)]
    assert [pair for page in pages for pair in _pairs(page)] == _wanted(collection, FILTERS[6], QUERY, 10_000)


def test_candidates_widen_where_the_filter_avoids_the_query(open_collection: OpenCollection) -> None:
    """When nothing near the query is allowed, what is allowed far away is found all the same."""
    near = [hit.id for hit in exact_neighbours(dict(zip(map(str, range(1000)), VECTORS, strict=True)), QUERY, 900)]
    far = set(map(str, range(1000))) - set(near)
    for candidates_max in (5000, 130):  # widened to the end, and given up for fetching
        settings_ = IndexSettings(
            tail_rows_max=64,
            filter_exact_rows_least=1,
            filter_exact_factor=1e-9,
            filter_candidates_max=candidates_max,
            ef_min=16,
        )
        collection = open_collection(settings_, engine=BruteForceEngine(), name=f"at most {candidates_max}")
        for first in range(0, 1000, 50):
            collection.upsert(
                [Record(str(at), VECTORS[at], {"far": str(at) in far}) for at in range(first, first + 50)]
            )
        _settle(collection)
        filter_ = Equals("far", value=True)
        found = collection.find(Search(QUERY, limit=20, filter=filter_))
        assert _pairs(found.hits) == _wanted(collection, filter_, QUERY, 20)


def test_ties_at_the_cut_are_decided_by_ids(open_collection: OpenCollection) -> None:
    """Of many items with one vector those with the first ids that are allowed are found, on every plan."""
    for settings_ in (TESTING, FETCHING):
        collection = open_collection(settings_, engine=BruteForceEngine(), name=str(settings_.filter_exact_rows_least))
        records = [Record(f"{at:03d}", VECTORS[0], {"odd": at % 2 == 1}) for at in reversed(range(150))]
        collection.upsert([*records, *(Record(f"other {at}", VECTORS[at]) for at in range(1, 50))])
        _settle(collection)
        found = collection.find(Search(VECTORS[0], limit=7, offset=3, filter=Equals("odd", value=True)))
        assert [hit.item.id for hit in found.hits] == [f"{at:03d}" for at in range(7, 21, 2)]


def test_exact_searches_are_exact_on_every_plan(open_collection: OpenCollection) -> None:
    """Where graphs reach next to nothing, an exact search tests candidates of scans, and finds all."""
    collection = open_collection(TESTING, engine=BruteForceEngine(reachable_max=3))
    for first in range(0, 320, 40):
        collection.upsert(_records(320)[first : first + 40])
    _settle(collection)
    for segment in collection._state.view.parts:
        segment.segment.nearest = None  # type: ignore[assignment,method-assign]  # calling it would raise
    for filter_ in FILTERS:
        found = collection.find(Search(QUERY, limit=10, filter=filter_, exact=True))
        assert _pairs(found.hits) == _wanted(collection, filter_, QUERY, 10)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_filtered_recall_with_graphs(open_collection: OpenCollection, share: float) -> None:
    """On real graphs at least 98 of 100 exact neighbours are found, whatever share of the items is allowed."""
    count, dim = 3000, 16
    vectors = clustered_vectors(count, clusters=60, spread=0.3, seed=5, dim=dim)
    queries = clustered_vectors(30, clusters=60, spread=0.3, seed=6, dim=dim)
    draws = np.random.default_rng(7).random(count)
    collection = open_collection(IndexSettings(tail_rows_max=1000, filter_exact_rows_least=1, filter_exact_factor=1e-9))
    for first in range(0, count, 500):
        collection.upsert(
            [Record(str(at), vectors[at], {"draw": float(draws[at])}) for at in range(first, first + 500)]
        )
    wait_until(lambda: collection.stats().tail_row_count < 1000)
    filter_ = Range("draw", None, Bound(share, inclusive=False))
    overlap = 0
    for query in queries:
        exact = collection.find(Search(query, limit=10, filter=filter_, exact=True))
        found = collection.find(Search(query, limit=10, filter=filter_))
        assert len(found.hits) == 10
        overlap += len({hit.item.id for hit in exact.hits} & {hit.item.id for hit in found.hits})
    assert overlap >= 0.98 * 10 * len(queries)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(attributes, min_size=1, max_size=60), filters, st.integers(1, 12))
def test_random_items_and_filters(
    shared_collection: Collection, facts: list[Attributes], filter_: Filter, limit: int
) -> None:
    """Searching, listing, counting and deleting agree with the definition of the filter, on random items."""
    collection = shared_collection
    collection.delete([item.id for item in collection.list_items(limit=1000)])
    collection.upsert([Record(f"{at:02d}", VECTORS[at], fact) for at, fact in enumerate(facts)])
    allowed = [f"{at:02d}" for at, fact in enumerate(facts) if allows(filter_, fact)]
    found = collection.find(Search(QUERY, limit=limit, filter=filter_))
    assert _pairs(found.hits) == _wanted(collection, filter_, QUERY, limit)
    assert [item.id for item in collection.list_items(limit=1000, filter_=filter_)] == allowed
    listed = [item.id for item in collection.list_items(after="05", limit=3, filter_=filter_)]
    assert listed == [item_id for item_id in allowed if item_id > "05"][:3]
    assert collection.count(filter_) == len(allowed)
    sequence = collection.sequence
    outcome = collection.delete_matching(filter_)
    assert (outcome.deleted, outcome.sequence) == (len(allowed), sequence + len(allowed))
    assert [item.id for item in collection.list_items(limit=1000)] == [
        f"{at:02d}" for at in range(len(facts)) if f"{at:02d}" not in allowed
    ]


@pytest.fixture
def shared_collection(open_collection: OpenCollection) -> Collection:
    """A collection of tiny segments that tests candidates in half of its searches."""
    return open_collection(
        IndexSettings(tail_rows_max=16, filter_exact_rows_least=2, filter_exact_factor=0.4, throttle_seconds_max=60),
        engine=BruteForceEngine(),
    )


def test_deleting_by_filter_in_several_transactions(open_collection: OpenCollection) -> None:
    """More items than one transaction may hold are deleted all the same, and no other."""
    collection = open_collection(IndexSettings(records_max=50))
    for first in range(0, 240, 40):
        collection.upsert(_records(240)[first : first + 40])
    outcome = collection.delete_matching(Equals("even", value=True))
    assert (outcome.deleted, outcome.sequence) == (120, 360)
    assert collection.count() == collection.count(Equals("even", value=False)) == 120


def test_bad_filters_are_refused_before_anything_happens(open_collection: OpenCollection) -> None:
    """Searching, listing, counting and deleting name the field of a filter that cannot be evaluated."""
    collection = open_collection()
    bad = Equals("a", float("nan"))
    calls: list[Callable[[], object]] = [
        lambda: collection.find(Search(QUERY, limit=1, filter=bad)),
        lambda: collection.list_items(limit=1, filter_=bad),
        lambda: collection.count(bad),
        lambda: collection.delete_matching(bad),
    ]
    for call in calls:
        with pytest.raises(InvalidArgumentError, match=r"^filter\.equals\.value: "):
            call()


def test_attributes_follow_every_write(open_collection: OpenCollection) -> None:
    """Upserts that keep the vector, replace it or lose the attributes, and deletes, are what filters go by next."""
    collection = open_collection()

    def found(filter_: Filter) -> list[str]:
        return [hit.item.id for hit in collection.find(Search(QUERY, limit=9, filter=filter_)).hits]

    collection.upsert([Record("a", VECTORS[0], {"s": "old"}), Record("b", VECTORS[1], {"s": "old"})])
    collection.upsert([Record("a", None, {"s": "new"})])
    assert (found(Equals("s", "old")), found(Equals("s", "new"))) == (["b"], ["a"])
    collection.upsert([Record("a", VECTORS[2], {"s": ("new", "er")})])
    assert (found(Equals("s", "er")), sorted(found(Exists("s")))) == (["a"], ["a", "b"])
    collection.upsert([Record("a", VECTORS[2])])
    assert (found(Exists("s")), found(Not(Exists("s")))) == (["b"], ["a"])
    collection.delete(["b"])
    assert found(Exists("s")) == []


@pytest.mark.parametrize("settings_", [TESTING, FETCHING])
@pytest.mark.timeout(300)
def test_a_filtered_search_is_of_one_moment(open_collection: OpenCollection, settings_: IndexSettings) -> None:
    """While items swap a mark, vectors change and segments are rebuilt, each search finds every marked item.

    Each write moves the mark from half of the items to the other half and gives some of them new vectors. So at any
    moment exactly half of the items are allowed; a search that mixed two moments would find more or fewer.
    """
    collection = open_collection(settings_, engine=BruteForceEngine())
    ids = [f"{at:03d}" for at in range(100)]

    def write(round_: int) -> None:
        collection.upsert(
            [
                Record(
                    item_id,
                    None if round_ and (at + round_) % 3 else VECTORS[(7 * at + round_) % 1000],
                    {"mark": (at + round_) % 2},
                    text="marked" if (at + round_) % 2 else "plain",
                )
                for at, item_id in enumerate(ids)
            ]
        )

    write(0)
    stop = threading.Event()

    def read(seed: int) -> int:
        random, count, sequence = np.random.default_rng(seed), 0, 0
        while not stop.is_set() or not count:
            query = QUERIES[random.integers(len(QUERIES))]
            ranking = get_args(Ranking)[random.integers(3)]
            exact = bool(random.integers(2))
            search = Search(
                query, limit=200, filter=Equals("mark", 1), exact=exact, ranking=ranking, words="marked plain"
            )
            found = collection.find(search)
            assert len({hit.item.id for hit in found.hits}) == len(found.hits) == 50
            assert all(hit.item.attributes["mark"] == 1 and hit.item.text == "marked" for hit in found.hits)
            assert all(hit.score == pytest.approx(float(hit.item.vector @ query), abs=1e-5) for hit in found.hits)
            every = collection.find(Search(query, limit=200, exact=exact))
            assert len({hit.item.id for hit in every.hits}) == 100
            assert every.sequence >= found.sequence >= sequence
            sequence = every.sequence
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read, seed) for seed in range(2)]
        try:
            for round_ in range(1, 40):
                write(round_)
        finally:
            stop.set()
        assert all(reader.result() > 0 for reader in readers)
    assert collection.stats().damage == ()


def test_a_view_that_came_too_late_is_not_searched(open_collection: OpenCollection) -> None:
    """Where rows that were alive at the moment of the store are gone from the view, the search begins anew."""
    collection = open_collection(IndexSettings(tail_rows_max=20), engine=BruteForceEngine())
    collection.upsert(_records(19))
    state = collection._state
    take = state.view_at_least
    taken: list[int] = []

    def late(sequence: int, *, seconds_max: float) -> object:
        if not taken:  # Between the store's moment and the view: deletions, and a segment without their rows.
            collection.delete([f"item {at:04d}" for at in range(10)])
            collection.upsert(_records(40)[20:30])
            wait_until(lambda: bool(collection.stats().segments))
        taken.append(sequence)
        return take(sequence, seconds_max=seconds_max)

    state.view_at_least = late  # type: ignore[assignment,method-assign]
    found = collection.find(Search(QUERY, limit=50, filter=Exists("n")))
    assert len(taken) == 2
    assert found.sequence == taken[1] == collection.sequence
    assert len(found.hits) == 19


@pytest.mark.parametrize("views_kept", [1, 8])
def test_a_view_ahead_of_the_store_is_searched_as_of_the_stores_moment(
    open_collection: OpenCollection, monkeypatch: pytest.MonkeyPatch, views_kept: int
) -> None:
    """Items added, changed and deleted between the two are seen as they were, with a filter and without.

    That goes for the view of that very moment, where it is still there, and for one that shows more.
    """
    monkeypatch.setattr("clip_search_server.index.state._VIEWS_KEPT", views_kept)
    collection = open_collection(engine=BruteForceEngine())
    collection.upsert([Record(f"{at}", VECTORS[at], {"n": at}) for at in range(8)])
    state = collection._state
    take = state.view_at_least
    rounds = iter(range(100))

    def ahead(sequence: int, *, seconds_max: float) -> object:
        at = next(rounds)
        collection.delete([f"{at}"])
        collection.upsert([Record(f"new {at}", QUERY, {"n": 1}), Record("7", VECTORS[100 + at], {"n": 7})])
        return take(sequence, seconds_max=seconds_max)

    for filter_ in (None, Exists("n")):
        for exact in (False, True):
            wanted = _wanted(collection, filter_, QUERY, 50)
            sequence = collection.sequence
            state.view_at_least = ahead  # type: ignore[assignment,method-assign]
            found = collection.find(Search(QUERY, limit=50, filter=filter_, exact=exact))
            state.view_at_least = take  # type: ignore[method-assign]
            assert (_pairs(found.hits), found.sequence) == (wanted, sequence)


def test_a_write_that_cannot_be_shown_is_an_error(
    open_collection: OpenCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search does not wait for ever, nor answer from an older view than the store."""
    monkeypatch.setattr("clip_search_server.index.finder._SHOWN_SECONDS_MAX", 0.01)
    collection = open_collection()
    collection.upsert(_records(3))
    monkeypatch.setattr(collection._state, "apply", lambda *_: None)
    with pytest.raises(UnavailableError):
        collection._writer.run(lambda transaction: transaction.put(Record("late", VECTORS[3]))) and collection.find(
            Search(QUERY, limit=1)
        )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE attributes SET key = 3 WHERE key = 4 AND name = CAST('tenth' AS BLOB)",
        "INSERT INTO attributes SELECT label, CAST('tenth' AS BLOB), 2, 3 FROM items WHERE label = 5",
    ],
)
def test_a_damaged_index_of_attributes_is_never_believed(open_collection: OpenCollection, statement: str) -> None:
    """An entry that says what its item does not is reported, not served."""
    collection = open_collection()
    collection.upsert(_records(20))
    connection = apsw.Connection(str(collection._store.path))
    connection.execute(statement)
    connection.close()
    with pytest.raises(DataLossError, match="index of attributes"):
        collection.find(Search(QUERY, limit=20, filter=Equals("tenth", 3)))
    assert any("index of attributes" in sentence for sentence in collection.stats().damage)


def test_candidates_that_died_are_not_asked_about(open_collection: OpenCollection) -> None:
    """The test sees live rows alone, best first, and no more than it takes."""
    collection = _filled(open_collection, TESTING)
    asked: list[int] = []

    def test(labels: IntArray) -> IntArray:
        asked.extend(labels.tolist())
        return labels

    view = collection._state.view
    near = nearest_tested(view, QUERY, 5, test, sequence=view.sequence, exact=False, first_count=1, candidates_max=100)
    assert near == view.near(QUERY, 5, exact=True)
    assert len(asked) == 32
    assert all(first >= second - 1e-5 for first, second in pairwise(_score_of(collection, label) for label in asked))


def _score_of(collection: Collection, label: int) -> float:
    with collection._reader.state() as state:
        return float(state.vector(label) @ QUERY)
