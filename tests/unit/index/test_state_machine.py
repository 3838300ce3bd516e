"""Random histories against a dictionary and an exact scan."""

import shutil
import tempfile
from pathlib import Path

import apsw
import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from clip_search_server.index import Attributes, Collection, Filter, IndexSettings, Record, Search
from clip_search_server.index.derived import find_damage
from clip_search_server.index.schema import store_path
from clip_search_server.index.segment import SegmentEngine
from tests.unit.index.filter_data import allows, attributes, filters
from tests.unit.index.support import (
    DIM,
    SPACE,
    BruteForceEngine,
    Model,
    exact_neighbours,
    model_of,
    random_vectors,
    wait_until,
)

VECTORS = random_vectors(40, seed=1)
QUERIES = random_vectors(10, seed=2)
SETTINGS = IndexSettings(
    tail_rows_max=8,
    segments_max=2,
    throttle_seconds_max=60.0,
    filter_exact_rows_least=4,
    filter_exact_factor=0.4,
    filter_candidates_max=16,
)

ids = st.integers(0, 24).map("item {}".format)
picks = st.integers(0, len(VECTORS) - 1)


class History(RuleBasedStateMachine):
    """One collection and what it must contain."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="history-"))
        self.model: Model = {}
        self.texts: dict[str, str] = {}
        self.facts: dict[str, Attributes] = {}
        self.sequence = 0

    @initialize(graphs=st.booleans())
    def start(self, *, graphs: bool) -> None:
        """Open an empty collection, with hnswlib or with the reference engine."""
        self.engine: SegmentEngine | None = None if graphs else BruteForceEngine()
        self._open()

    def _open(self) -> None:
        self.collection = Collection.open(self.folder, dim=DIM, space_id=SPACE, settings=SETTINGS, engine=self.engine)

    @rule(batch=st.lists(st.tuples(ids, picks, attributes), max_size=12))
    def upsert(self, batch: list[tuple[str, int, Attributes]]) -> None:
        """Write a batch, ids and vectors drawn from few, so that both repeat."""
        records = [Record(item_id, VECTORS[at], facts, f"text {at}") for item_id, at, facts in batch]
        outcome = self.collection.upsert(records)
        self.sequence += len(batch)
        assert outcome.sequence == self.sequence
        for item_id, at, facts in batch:
            self.model[item_id] = VECTORS[at]
            self.texts[item_id] = f"text {at}"
            self.facts[item_id] = facts

    @rule(item_id=ids, facts=attributes)
    def keep_the_vector(self, item_id: str, facts: Attributes) -> None:
        """Rewrite an item without a vector: only possible if it exists."""
        [result] = self.collection.upsert([Record(item_id, None, facts, "rewritten")]).results
        assert isinstance(result, int) == (item_id in self.model)
        if isinstance(result, int):
            self.sequence += 1
            self.texts[item_id] = "rewritten"
            self.facts[item_id] = facts

    @rule(batch=st.lists(ids, max_size=8, unique=True))
    def delete(self, batch: list[str]) -> None:
        """Delete some ids, whether they exist or not."""
        known = [item_id for item_id in batch if item_id in self.model]
        outcome = self.collection.delete(batch)
        self.sequence += len(known)
        assert (outcome.deleted, outcome.sequence) == (len(known), self.sequence)
        self._forget(known)

    def _forget(self, gone: list[str]) -> None:
        for item_id in gone:
            del self.model[item_id]
            del self.texts[item_id]
            del self.facts[item_id]

    @rule(filter_=filters)
    def delete_matching(self, filter_: Filter) -> None:
        """Delete what a filter allows."""
        known = self._allowed(filter_)
        outcome = self.collection.delete_matching(filter_)
        self.sequence += len(known)
        assert (outcome.deleted, outcome.sequence) == (len(known), self.sequence)
        self._forget(known)

    def _allowed(self, filter_: Filter | None) -> list[str]:
        return sorted(item_id for item_id in self.model if filter_ is None or allows(filter_, self.facts[item_id]))

    @rule(at=st.integers(0, len(QUERIES) - 1), limit=st.integers(1, 30), exact=st.booleans())
    def search(self, at: int, limit: int, *, exact: bool) -> None:
        """Any search equals an exact scan of the model: parts this small are reached whole."""
        outcome = self.collection.search(QUERIES[at], limit=limit, exact=exact)
        assert list(outcome.neighbours) == exact_neighbours(self.model, QUERIES[at], limit)
        assert outcome.sequence == self.sequence

    @rule(
        at=st.integers(0, len(QUERIES) - 1), limit=st.integers(1, 30), exact=st.booleans(), filter_=st.none() | filters
    )
    def find(self, at: int, limit: int, filter_: Filter | None, *, exact: bool) -> None:
        """A filtered search equals an exact scan of what is allowed, and brings the items themselves."""
        found = self.collection.find(Search(QUERIES[at], limit=limit, filter=filter_, exact=exact))
        allowed = {item_id: self.model[item_id] for item_id in self._allowed(filter_)}
        wanted = [(hit.id, hit.score) for hit in exact_neighbours(allowed, QUERIES[at], limit)]
        assert [(hit.item.id, hit.score) for hit in found.hits] == wanted
        assert [hit.item.attributes for hit in found.hits] == [self.facts[item_id] for item_id, _score in wanted]
        assert found.sequence == self.sequence

    @rule(at=picks)
    def find_by_text(self, at: int) -> None:
        """Every item that has the word is found, and no other."""
        found = self.collection.find(Search(QUERIES[0], limit=100, ranking="text", words=f"{at}"))
        wanted = {item_id for item_id, text in self.texts.items() if text == f"text {at}"}
        assert {hit.item.id for hit in found.hits} == wanted

    @rule(filter_=filters)
    def list_matching(self, filter_: Filter) -> None:
        """Listing and counting go by the filter."""
        listed = [item.id for item in self.collection.list_items(limit=100, filter_=filter_)]
        assert listed == self._allowed(filter_)
        assert self.collection.count(filter_) == len(listed)

    @rule()
    def settle(self) -> None:
        """Let the builder catch up."""
        wait_until(lambda: self.collection.stats().tail_row_count < SETTINGS.tail_rows_max)

    @rule()
    def snapshot(self) -> None:
        """Publish a generation."""
        assert self.collection.snapshot().item_count == len(self.model)

    @rule()
    def reopen(self) -> None:
        """Close and open again."""
        self.collection.close()
        self._open()
        stored = model_of(self.collection)
        assert {item_id: vector.tobytes() for item_id, vector in stored.items()} == {
            item_id: vector.tobytes() for item_id, vector in self.model.items()
        }
        assert self.collection.stats().damage == ()
        assert self._derived_damage() == []

    def _derived_damage(self) -> list[str]:
        connection = apsw.Connection(str(store_path(self.folder)))
        try:
            return find_damage(connection)
        finally:
            connection.close()

    @invariant()
    def counts_and_texts_agree(self) -> None:
        """The collection has exactly the model's items."""
        if not hasattr(self, "collection"):
            return
        assert self.collection.stats().item_count == len(self.model)
        found = self.collection.get(sorted(self.texts))
        assert [item and item.text for item in found] == [self.texts[item_id] for item_id in sorted(self.texts)]
        assert self.collection.sequence == self.sequence

    def teardown(self) -> None:
        """Close and remove."""
        if hasattr(self, "collection"):
            self.collection.close()
        shutil.rmtree(self.folder)


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
