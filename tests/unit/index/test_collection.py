import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import clip_search_server.index
from clip_search_server.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError, UnavailableError
from clip_search_server.index import Collection, Exists, IndexSettings, Record, Search
from clip_search_server.index.segment import SegmentEngine
from clip_search_server.index.types import FloatArray
from tests.unit.index.conftest import OpenCollection
from tests.unit.index.support import (
    DIM,
    BruteForceEngine,
    exact_neighbours,
    ids_of,
    model_of,
    random_vectors,
    wait_until,
)

QUERY = random_vectors(1, seed=99)[0]
VECTORS = random_vectors(1000, seed=1)


def _records(first: int, last: int) -> list[Record]:
    return [Record(f"item {at:04d}", VECTORS[at]) for at in range(first, last)]


def _sealed(collection: Collection, tail_rows_max: int) -> bool:
    return collection.stats().tail_row_count < tail_rows_max


def test_the_public_names_are_exact() -> None:
    """`__all__` lists what the package offers, sorted and importable."""
    names = clip_search_server.index.__all__
    assert names == sorted(names)
    assert all(hasattr(clip_search_server.index, name) for name in names)


def test_a_write_is_seen_by_the_next_read(open_collection: OpenCollection) -> None:
    """Right after `upsert` and `delete` return, searching, getting and counting show it."""
    collection = open_collection()
    outcome = collection.upsert([Record("a", VECTORS[0]), Record("b", VECTORS[1])])
    assert outcome.results == (1, 2)
    assert outcome.sequence == collection.sequence == 2
    found = collection.search(VECTORS[1], limit=1)
    assert (ids_of(found), found.sequence) == (["b"], 2)
    assert found.neighbours[0].score == pytest.approx(1.0, abs=1e-6)
    deleted = collection.delete(["b", "absent", "b"])
    assert (deleted.deleted, deleted.sequence) == (1, 3)
    assert ids_of(collection.search(VECTORS[1], limit=5)) == ["a"]
    assert collection.get(["b"]) == [None]
    assert collection.stats().item_count == 1


def test_of_the_same_id_twice_the_last_wins(open_collection: OpenCollection) -> None:
    """Later records of one call replace earlier ones, each under its own sequence number."""
    collection = open_collection()
    outcome = collection.upsert([Record("a", VECTORS[0]), Record("a", VECTORS[1], text="last")])
    assert outcome.results == (1, 2)
    [item] = collection.get(["a"])
    assert item is not None
    assert (item.text, item.sequence) == ("last", 2)
    assert np.array_equal(item.vector, VECTORS[1])
    assert ids_of(collection.search(VECTORS[1], limit=9)) == ["a"]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (Record("", VECTORS[0]), "id"),
        (Record("x" * 513, VECTORS[0]), "id"),
        (Record("\udc80", VECTORS[0]), "id"),
        (Record("new", VECTORS[0][:-1]), "vector"),
        (Record("new", np.full(DIM, np.nan, dtype=np.float32)), "vector"),
        (Record("new", np.full(DIM, np.inf, dtype=np.float32)), "vector"),
        (Record("new", np.zeros(DIM, dtype=np.float32)), "vector"),
        (Record("new", VECTORS[0], attributes={"a": "x" * 16_384}), "attributes"),
        (Record("new", VECTORS[0], text="x" * 32_769), "text"),
        (Record("new", VECTORS[0], text="\ud800"), "text"),
        (Record("new", VECTORS[0], thumbnail=bytes(262_145)), "thumbnail"),
        (Record("new", VECTORS[0], content_digest=bytes(65)), "content_digest"),
    ],
)
def test_a_bad_record_never_fails_its_neighbours(open_collection: OpenCollection, bad: Record, field: str) -> None:
    """The bad one's place holds the error with the field's name; the others are stored."""
    collection = open_collection()
    first, second, third = collection.upsert([Record("a", VECTORS[0]), bad, Record("b", VECTORS[1])]).results
    assert isinstance(second, InvalidArgumentError)
    assert second.field == field
    assert (first, third) == (1, 2)
    assert sorted(ids_of(collection.search(QUERY, limit=9))) == ["a", "b"]


def test_a_record_that_has_nothing_to_keep_never_fails_its_neighbours(open_collection: OpenCollection) -> None:
    """No vector and no item to keep it of is an error in its place."""
    first, second, third = (
        open_collection().upsert([Record("a", VECTORS[0]), Record("b", None), Record("a", None)]).results
    )
    assert (first, third) == (1, 2)
    assert isinstance(second, NotFoundError)


def test_a_record_without_a_vector_keeps_the_present_one(open_collection: OpenCollection) -> None:
    """Attributes change, the vector and its place in the searches do not."""
    collection = open_collection()
    collection.upsert([Record("a", VECTORS[0], {"state": "old"})])
    collection.upsert([Record("a", None, {"state": "new"})])
    [item] = collection.get(["a"])
    assert item is not None
    assert item.attributes == {"state": "new"}
    assert np.array_equal(item.vector, VECTORS[0])
    assert collection.stats().tail_row_count == 1


def test_vectors_need_not_be_of_unit_length(open_collection: OpenCollection) -> None:
    """Records and queries of any length score as cosines."""
    collection = open_collection()
    collection.upsert([Record("a", VECTORS[0] * np.float32(123.0))])
    [hit] = collection.search(VECTORS[0] * np.float32(1e-20), limit=1).neighbours
    assert hit.score == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 10_001}, "limit"),
        ({"limit": 1, "offset": -1}, "offset"),
        ({"limit": 1, "offset": 10_000}, "offset"),
    ],
)
def test_a_search_outside_its_limits_is_refused(
    open_collection: OpenCollection, arguments: dict[str, int], field: str
) -> None:
    """`limit` and `offset` are bounded, and the message names the one at fault."""
    with pytest.raises(InvalidArgumentError) as caught:
        open_collection().search(QUERY, **arguments)  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize("query", [VECTORS[0][1:], VECTORS[0] * np.nan, np.zeros(DIM)])
def test_a_query_that_points_nowhere_is_refused(open_collection: OpenCollection, query: FloatArray) -> None:
    """A query of another dimension, with NaN or of zero length is refused."""
    with pytest.raises(InvalidArgumentError, match=r"^query: "):
        open_collection().search(query, limit=1)


def test_calls_over_their_limits_are_refused_whole(open_collection: OpenCollection) -> None:
    """Too many records or ids, and ids that cannot be, are refused before anything is written."""
    collection = open_collection(IndexSettings(records_max=3))
    with pytest.raises(InvalidArgumentError, match="records: holds 4 entries; at most 3"):
        collection.upsert(_records(0, 4))
    with pytest.raises(InvalidArgumentError, match="ids: holds 4 entries; at most 3"):
        collection.get(["a", "b", "c", "d"])
    with pytest.raises(InvalidArgumentError, match=r"ids\[1\]: must not be empty"):
        collection.delete(["a", ""])
    with pytest.raises(InvalidArgumentError, match="limit"):
        collection.list_items(limit=4)
    assert collection.sequence == 0


def test_offset_and_min_score_cut_the_same_ranking(open_collection: OpenCollection) -> None:
    """Pages join to the whole ranking, and a minimum score cuts its end off."""
    collection = open_collection()
    collection.upsert(_records(0, 200))
    whole = collection.search(QUERY, limit=200, exact=True).neighbours
    pages = [collection.search(QUERY, limit=30, offset=at, exact=True).neighbours for at in range(0, 210, 30)]
    assert [hit for page in pages for hit in page] == list(whole)
    cut = whole[49].score
    above = collection.search(QUERY, limit=200, exact=True, min_score=cut).neighbours
    assert list(above) == [hit for hit in whole if hit.score >= cut]
    assert collection.search(QUERY, limit=5, offset=500).neighbours == ()


@pytest.mark.parametrize("engine", [None, BruteForceEngine()])
def test_the_graph_and_the_scan_agree(open_collection: OpenCollection, engine: SegmentEngine | None) -> None:
    """Once everything is sealed, both paths give the same hits, scores and order: those of a plain comparison."""
    collection = open_collection(engine=engine)
    for first in range(0, 800, 40):
        collection.upsert(_records(first, first + 40))
    wait_until(lambda: _sealed(collection, 32))
    assert collection.stats().segments
    model = model_of(collection)
    assert len(model) == 800
    for query in random_vectors(20, seed=2):
        wanted = exact_neighbours(model, query, 10)
        assert list(collection.search(query, limit=10).neighbours) == wanted
        assert list(collection.search(query, limit=10, exact=True).neighbours) == wanted


def test_identical_vectors_are_all_found(open_collection: OpenCollection) -> None:
    """Many items with one vector share a node and tie in the order of their ids, in the tail and in a segment."""
    collection = open_collection(IndexSettings(tail_rows_max=256))
    same = [f"same {at:03d}" for at in range(250)]
    collection.upsert([Record(item_id, VECTORS[0]) for item_id in reversed(same)])
    assert ids_of(collection.search(VECTORS[0], limit=250)) == same
    collection.upsert(_records(1, 300))
    wait_until(lambda: _sealed(collection, 256))
    assert sum(segment.node_count for segment in collection.stats().segments) == 300
    assert ids_of(collection.search(VECTORS[0], limit=250)) == same
    assert ids_of(collection.search(VECTORS[0], limit=7, offset=100)) == same[100:107]
    collection.delete(same[::2])
    assert ids_of(collection.search(VECTORS[0], limit=125)) == same[1::2]


def test_deleting_never_leaves_a_search_short(open_collection: OpenCollection) -> None:
    """After deleting everything near the query, the best of the rest fill the answer, down to the last item."""
    settings = IndexSettings(tail_rows_max=64, segments_max=50, dead_share_max=0.99)
    collection = open_collection(settings)
    for first in range(0, 640, 64):
        collection.upsert(_records(first, first + 64))
    wait_until(lambda: _sealed(collection, 64))
    model = model_of(collection)
    while model:
        wanted = exact_neighbours(model, QUERY, 10)
        assert list(collection.search(QUERY, limit=10).neighbours) == wanted
        gone = [hit.id for hit in exact_neighbours(model, QUERY, 80)]
        assert collection.delete(gone).deleted == len(gone)
        for item_id in gone:
            del model[item_id]
    assert collection.search(QUERY, limit=10).neighbours == ()


def test_segments_stay_few_and_fresh(open_collection: OpenCollection) -> None:
    """Small segments are merged and dead rows compacted away, and their files go with them."""
    collection = open_collection()
    for first in range(0, 1000, 50):
        collection.upsert(_records(first, first + 50))
    collection.delete([f"item {at:04d}" for at in range(0, 1000, 2)])
    collection.upsert([Record(f"item {at:04d}", VECTORS[at - 1]) for at in range(1, 1000, 4)])

    def is_tidy() -> bool:
        stats = collection.stats()
        fresh = all(segment.row_count - segment.live_count <= 0.3 * segment.row_count for segment in stats.segments)
        return fresh and len(stats.segments) <= 3 and stats.tail_row_count < 32

    wait_until(is_tidy)
    assert list(collection.search(QUERY, limit=20).neighbours) == exact_neighbours(model_of(collection), QUERY, 20)
    collection.snapshot()
    collection.delete(["item 0003"])
    newest = collection.snapshot()  # Both kept generations now name the present segments alone.
    folder = newest.path.parent.parent / "segments"
    names = {segment.name for segment in collection.stats().segments}
    wait_until(lambda: {path.stem for path in folder.iterdir()} == names)


def test_only_snapshots_that_are_published_are_measured(open_collection: OpenCollection) -> None:
    """One with nothing new costs nothing and would make the others look quick."""
    collection = open_collection()
    before = sum(collection.figures.snapshot_seconds.counts())
    collection.upsert(_records(0, 1))
    collection.snapshot()
    collection.snapshot()
    assert sum(collection.figures.snapshot_seconds.counts()) == before + 1


def test_a_snapshot_with_nothing_new_is_the_one_that_is_there(open_collection: OpenCollection) -> None:
    """Asking again publishes nothing; one write later there is something to publish."""
    collection = open_collection()
    collection.upsert(_records(0, 3))
    first = collection.snapshot()
    assert collection.snapshot() == first
    assert len(list(first.path.parent.iterdir())) == 1
    collection.upsert(_records(3, 4))
    assert collection.snapshot().number == first.number + 1


def test_ingest_waits_for_the_builder_and_gives_up_in_time(open_collection: OpenCollection) -> None:
    """While nothing can be sealed, writing stops at twice the tail's bound; deletes and reads go on."""
    gate = threading.Event()
    settings = IndexSettings(tail_rows_max=10, throttle_seconds_max=0.05)
    collection = open_collection(settings, engine=BruteForceEngine(lambda: _opened(gate)))
    collection.upsert(_records(0, 20))
    with pytest.raises(ResourceExhaustedError, match="more slowly") as caught:
        collection.upsert(_records(20, 21))
    assert caught.value.retry_after_seconds == pytest.approx(0.05)
    assert collection.delete(["item 0000"]).deleted == 1
    assert len(collection.search(QUERY, limit=100).neighbours) == 19
    gate.set()
    wait_until(lambda: collection.stats().tail_row_count == 0)
    assert collection.upsert(_records(20, 21)).results == (22,)


def test_what_changes_during_a_build_is_right_after_it(open_collection: OpenCollection) -> None:
    """Deletes, updates and additions made while a segment is built are neither lost nor undone by the swap."""
    building, gate = threading.Event(), threading.Event()

    def hold() -> None:
        building.set()
        _opened(gate)

    collection = open_collection(IndexSettings(tail_rows_max=20), engine=BruteForceEngine(hold))
    collection.upsert(_records(0, 20))
    assert building.wait(60)
    collection.delete(["item 0003"])
    collection.upsert([Record("item 0005", VECTORS[500]), *_records(20, 25)])
    model = model_of(collection)
    before = collection.search(QUERY, limit=50)
    gate.set()
    wait_until(lambda: len(collection.stats().segments) == 1)
    assert list(before.neighbours) == exact_neighbours(model, QUERY, 50)
    assert collection.search(QUERY, limit=50) == before
    assert collection.stats().tail_row_count == 6


def test_a_failed_build_is_reported_and_tried_again(open_collection: OpenCollection, reported: list[str]) -> None:
    """While builds fail, searches stay exact and the failure shows; the next attempt clears it."""
    attempts = iter([OSError("No space left on device"), OSError("No space left on device")])

    def fail_twice() -> None:
        if (error := next(attempts, None)) is not None:
            raise error

    settings = IndexSettings(tail_rows_max=20, build_retry_seconds=0.05)
    collection = open_collection(settings, engine=BruteForceEngine(fail_twice))
    collection.upsert(_records(0, 30))
    wait_until(lambda: collection.stats().build_failure is not None or len(collection.stats().segments) == 1)
    assert len(collection.search(QUERY, limit=50).neighbours) == 30
    wait_until(lambda: len(collection.stats().segments) == 1 and collection.stats().build_failure is None)
    assert sum("No space left" in line for line in reported) == 2


def test_listing_pages_through_everything(open_collection: OpenCollection) -> None:
    """Items come in byte order of their ids, page after page, none twice."""
    collection = open_collection()
    ids = ["b", "a", "é", "Z", "\U0001f600", "ab"]
    collection.upsert([Record(item_id, VECTORS[at]) for at, item_id in enumerate(ids)])
    first = collection.list_items(limit=4)
    rest = collection.list_items(after=first[-1].id, limit=4)
    assert [item.id for item in first + rest] == sorted(ids, key=str.encode)


def test_a_closed_collection_answers_unavailable(open_collection: OpenCollection) -> None:
    """Every call after `close` gets a clear error, and closing twice is harmless."""
    collection = open_collection()
    collection.upsert(_records(0, 3))
    collection.close()
    collection.close()
    for call in (
        lambda: collection.upsert(_records(0, 1)),
        lambda: collection.delete(["item 0000"]),
        lambda: collection.get(["item 0000"]),
        lambda: collection.list_items(limit=1),
        lambda: collection.search(QUERY, limit=1),
        lambda: collection.find(Search(QUERY, limit=1)),
        lambda: collection.count(Exists("a")),
        lambda: collection.delete_matching(Exists("a")),
        collection.snapshot,
    ):
        with pytest.raises(UnavailableError, match="closed"):
            call()


def test_closing_wakes_those_who_wait_for_room(open_collection: OpenCollection) -> None:
    """A writer that waits for the builder is not left hanging when the collection closes."""
    gate, blocked = threading.Event(), threading.Event()

    def hold() -> None:
        blocked.set()
        _opened(gate)

    collection = open_collection(IndexSettings(tail_rows_max=10), engine=BruteForceEngine(hold))
    collection.upsert(_records(0, 20))
    assert blocked.wait(60)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(collection.upsert, _records(20, 30))
        wait_until(lambda: bool(collection._state._changed._waiters))  # type: ignore[attr-defined]
        closing = pool.submit(collection.close)
        gate.set()
        closing.result(60)
        with pytest.raises(UnavailableError, match="closed"):
            waiting.result(60)


def test_settings_that_cannot_work_are_refused() -> None:
    """A setting out of range names itself."""
    for arguments, name in (
        ({"durability": "never"}, "durability"),
        ({"tail_rows_max": 0}, "tail_rows_max"),
        ({"segments_max": 1}, "segments_max"),
        ({"dead_share_max": 1.0}, "dead_share_max"),
        ({"dead_share_quiet_max": 0.0}, "dead_share_quiet_max"),
        ({"quiet_seconds": 0.0}, "quiet_seconds"),
        ({"build_niceness": 20}, "build_niceness"),
        ({"build_niceness": -1}, "build_niceness"),
        ({"build_retry_seconds": 0.0}, "build_retry_seconds"),
        ({"filter_exact_factor": 0.0}, "filter_exact_factor"),
        ({"recall_interval_seconds": 0.0}, "recall_interval_seconds"),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: must "):
            IndexSettings(**arguments)


def _opened(gate: threading.Event) -> None:
    assert gate.wait(60)
