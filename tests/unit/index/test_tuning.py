from pathlib import Path

import numpy as np
import pytest

from clip_search_server.index import Collection, IndexSettings, Record, Search
from clip_search_server.index.settings import EngineChoice
from clip_search_server.index.tuning import _EF_LADDER, no_queries, recall_at, tune
from clip_search_server.index.types import FloatArray, IntArray
from tests.unit.index.conftest import OpenCollection
from tests.unit.index.engine_cases import ENGINES, make_engine
from tests.unit.index.support import (
    DIM,
    SPACE,
    BruteForceEngine,
    BruteForceSegment,
    clustered_vectors,
    random_vectors,
    wait_until,
)

VECTORS = random_vectors(9000, seed=1)  # More than two blocks of the scan.
QUERIES = random_vectors(30, seed=2)
SETTINGS = IndexSettings(ef_min=64)


class Lossy(BruteForceSegment):
    """Misses the second nearest unless `ef` is enough; queries listed as hard need more of it."""

    def __init__(
        self, vectors: FloatArray, *, enough: int, enough_for_hard: int = 0, hard: FloatArray = QUERIES
    ) -> None:
        super().__init__(vectors, 1 << 30)
        self._enough = enough
        self._enough_for_hard = enough_for_hard
        self._hard = {query.tobytes() for query in hard}

    def nearest(self, query: FloatArray, count: int, ef: int) -> IntArray | None:
        """Return the nearest nodes, all true or with one missing."""
        found = super().nearest(query, count + 1, ef)
        assert found is not None
        enough = self._enough_for_hard if query.tobytes() in self._hard else self._enough
        return found[:count] if ef >= enough else np.delete(found, 1)[:count]


@pytest.mark.parametrize(
    ("enough", "chosen"), [(1, 64), (65, 96), (200, 256), (1024, 1024), (1025, 1536), (2048, 2048)]
)
def test_the_smallest_ef_that_reaches_the_target_is_chosen(enough: int, chosen: int) -> None:
    """The ladder is climbed no higher than needed, and what was measured is noted."""
    tuning = tune(Lossy(VECTORS, enough=enough), VECTORS, no_queries(), SETTINGS)
    assert (tuning.ef, tuning.recall, tuning.recall_target) == (chosen, 1.0, 0.98)


@pytest.mark.parametrize("ef_min", [16, 100, 5000])
def test_no_less_than_the_least_is_chosen(ef_min: int) -> None:
    """The floor holds, be it below, between or above the steps of the ladder."""
    segment = BruteForceSegment(VECTORS, 1 << 30)
    assert tune(segment, VECTORS, no_queries(), IndexSettings(ef_min=ef_min)).ef == ef_min
    assert min(segment.efs) == ef_min


def test_a_target_out_of_reach_takes_the_last_step_and_says_what_it_gives() -> None:
    """Nothing is pretended: the recall that was measured is noted, below the target as it is."""
    tuning = tune(Lossy(VECTORS, enough=10_000), VECTORS, no_queries(), SETTINGS)
    assert (tuning.ef, tuning.recall) == (_EF_LADDER[-1], 0.9)


def test_queries_of_people_count_by_themselves() -> None:
    """Where texts need more than stored vectors, they decide, however many stored vectors do well."""
    segment = Lossy(VECTORS, enough=1, enough_for_hard=300)
    assert tune(segment, VECTORS, no_queries(), SETTINGS).ef == 64
    assert tune(segment, VECTORS, QUERIES, SETTINGS).ef == 384
    assert tune(segment, VECTORS, QUERIES[:1], SETTINGS).ef == 384


def test_some_of_the_target_is_kept_in_reserve() -> None:
    """Samples that just reach the target are not enough: what comes later may fare a little worse."""
    half_missing = Lossy(VECTORS, enough=1, enough_for_hard=200)
    queries = np.concatenate([QUERIES[:5], random_vectors(25, seed=3)])
    assert recall_at(half_missing, VECTORS, queries, 64) == pytest.approx(1 - 5 / 300)
    assert tune(half_missing, VECTORS, queries, SETTINGS).ef == 256
    assert tune(half_missing, VECTORS, queries, IndexSettings(ef_min=64, recall_target=0.96)).ef == 64


def test_a_vector_does_not_count_as_its_own_neighbour() -> None:
    """Finding the query itself is too easy: of stored vectors the ten others are counted."""
    tuning = tune(Lossy(VECTORS, enough=10_000), VECTORS, no_queries(), IndexSettings(ef_min=64, recall_target=0.5))
    assert tuning.recall == 0.9


def test_what_the_graph_cannot_answer_is_found_by_the_scan() -> None:
    """A segment that says None is scanned by its caller, so nothing is missed."""
    segment = BruteForceSegment(VECTORS, reachable_max=3)
    assert tune(segment, VECTORS, QUERIES, SETTINGS) == tune(
        BruteForceSegment(VECTORS, 1 << 30), VECTORS, QUERIES, SETTINGS
    )


@pytest.mark.parametrize("count", [1, 2, 10, 11, 12])
def test_segments_of_few_vectors_are_tuned(count: int) -> None:
    """Fewer vectors than neighbours to find are no error."""
    vectors = VECTORS[:count]
    assert tune(BruteForceSegment(vectors, 1 << 30), vectors, QUERIES, SETTINGS).recall == 1.0


def test_the_cost_is_bounded() -> None:
    """Only the newest queries are taken, and each sample is searched a handful of times."""
    segment = BruteForceSegment(VECTORS, 1 << 30)
    many = random_vectors(1000, seed=4)
    tune(segment, VECTORS, many, SETTINGS)
    assert len(segment.asked) <= 2 * 100 * 4
    hard_long_ago = Lossy(VECTORS, enough=1, enough_for_hard=500, hard=many[:800])
    assert tune(hard_long_ago, VECTORS, many, SETTINGS).ef == 64


@pytest.mark.parametrize("name", ENGINES)
def test_a_real_graph_is_tuned_to_what_it_then_finds(name: EngineChoice) -> None:
    """Queries that were not sampled are answered as well as the tuning says, within the reserve."""
    vectors = clustered_vectors(6200, clusters=20, spread=1.5, seed=5, dim=96)
    stored, queries = vectors[:6000], vectors[6000:]
    segment = make_engine(name, IndexSettings(build_threads=1, graph_links=6, ef_construction=40)).build(
        stored, lambda: False
    )
    tuning = tune(segment, stored, no_queries(), SETTINGS)
    assert tuning.ef > SETTINGS.ef_min, "too easy a graph: nothing was tuned"
    assert tuning.recall >= 0.98
    assert recall_at(segment, stored, queries, tuning.ef) >= 0.98


def test_a_collection_tunes_its_segments_and_tells(open_collection: OpenCollection, reported: list[str]) -> None:
    """Sealing asks the hook for recent queries; `ef` and recall show in the stats and survive a restart."""
    asked: list[int] = []

    def recent() -> FloatArray:
        asked.append(1)
        return QUERIES

    class Engine(BruteForceEngine):
        def build(self, vectors: FloatArray, cancelled: object) -> BruteForceSegment:
            return Lossy(vectors, enough=1, enough_for_hard=100 if len(vectors) < 120 else 50_000)

    settings = IndexSettings(tail_rows_max=100, ef_min=64)
    collection = open_collection(settings, engine=Engine(), recent_queries=recent)
    collection.upsert([Record(f"item {at}", VECTORS[at]) for at in range(100)])
    wait_until(lambda: collection.stats().tail_row_count == 0)
    [segment] = collection.stats().segments
    assert (segment.engine, segment.ef, segment.recall) == ("brute-force", 128, 1.0)
    assert asked == [1]
    assert not any("finds only" in line for line in reported)
    collection.upsert([Record(f"item {at}", VECTORS[at]) for at in range(100, 300)])
    wait_until(lambda: collection.stats().tail_row_count == 0)
    assert any("a segment of 200 vectors finds only 90.0% at ef 8192" in line for line in reported)
    before = collection.stats().segments
    collection.snapshot()
    collection.close()
    assert open_collection(settings, engine=Engine()).stats().segments == before


def test_a_search_considers_what_its_segment_was_tuned_to(open_collection: OpenCollection) -> None:
    """`ef` of the tuning reaches the engine; a window wider than the tuning's is given more."""
    made: list[BruteForceSegment] = []

    class Engine(BruteForceEngine):
        def build(self, vectors: FloatArray, cancelled: object) -> BruteForceSegment:
            made.append(Lossy(vectors, enough=150))
            return made[-1]

    collection = open_collection(IndexSettings(tail_rows_max=1000, ef_min=64), engine=Engine())
    collection.upsert([Record(f"item {at}", VECTORS[at]) for at in range(1000)])
    wait_until(lambda: collection.stats().tail_row_count == 0)
    [segment] = made
    segment.efs.clear()
    collection.search(QUERIES[0], limit=10)
    collection.search(QUERIES[0], limit=200)
    assert segment.efs[0] == 192
    assert segment.efs[1] >= 400


@pytest.mark.parametrize(("asked", "ef"), [(0, 64), (30, 256)])
def test_a_collection_tunes_to_what_it_was_asked_itself(tmp_path: Path, asked: int, ef: int) -> None:
    """Where nobody gives queries, those of its own searches are what a new segment must answer."""
    settings = IndexSettings(tail_rows_max=100, ef_min=64)

    class Engine(BruteForceEngine):
        def build(self, vectors: FloatArray, cancelled: object) -> BruteForceSegment:
            return Lossy(vectors, enough=1, enough_for_hard=200)

    collection = Collection.open(tmp_path, dim=DIM, space_id=SPACE, settings=settings, engine=Engine())
    collection.upsert([Record(f"item {at}", VECTORS[at]) for at in range(90)])
    for query in QUERIES[:asked]:
        collection.find(Search(query=query, limit=5))
    collection.upsert([Record(f"item {at}", VECTORS[at]) for at in range(90, 100)])
    wait_until(lambda: collection.stats().tail_row_count == 0)
    assert [segment.ef for segment in collection.stats().segments] == [ef]
    collection.close()
