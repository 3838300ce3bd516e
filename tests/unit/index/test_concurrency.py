"""Readers, writers, builder and snapshots at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from clip_search_server.index import Collection, IndexSettings, Record
from tests.unit.index.conftest import OpenCollection
from tests.unit.index.support import exact_neighbours, model_of, random_vectors, wait_until

WRITERS = 3
ITEMS = 120  # a writer
ROUNDS = 8
# Without a breath between calls the interpreter lock, not the index, decides who gets on.
BREATH_SECONDS = 0.001

VECTORS = random_vectors(WRITERS * ITEMS * 2, seed=1)
SETTINGS = IndexSettings(tail_rows_max=64, segments_max=3, throttle_seconds_max=60.0)


def _write(collection: Collection, writer: int) -> None:
    """Update the writer's own items again and again, and check that each write is seen at once."""
    random = np.random.default_rng(writer)
    for _ in range(ROUNDS):
        for batch in np.array_split(random.permutation(ITEMS), 6):
            chosen = random.integers(len(VECTORS), size=len(batch))
            ids = [f"writer {writer} item {at:03d}" for at in batch]
            records = [Record(item_id, VECTORS[at]) for item_id, at in zip(ids, chosen, strict=True)]
            sequence = collection.upsert(records).sequence
            found = collection.search(records[0].vector if records[0].vector is not None else [], limit=400)
            assert found.sequence >= sequence
            assert ids[0] in {hit.id for hit in found.neighbours}
        gone = ids[: len(ids) // 2]
        collection.delete(gone)
        assert not {hit.id for hit in collection.search(VECTORS[0], limit=400).neighbours} & set(gone)


def _read(collection: Collection, stop: threading.Event, reader: int) -> int:
    """Search again and again; whatever happens, each answer is whole, sorted and free of doubles."""
    random = np.random.default_rng(100 + reader)
    sequence = 0
    count = 0
    while not stop.is_set() or count == 0:
        outcome = collection.search(VECTORS[random.integers(len(VECTORS))], limit=30, exact=bool(reader % 2))
        scores = [hit.score for hit in outcome.neighbours]
        assert scores == sorted(scores, reverse=True)
        assert len({hit.id for hit in outcome.neighbours}) == len(outcome.neighbours)
        assert len(outcome.neighbours) == 30
        assert outcome.sequence >= sequence
        sequence = outcome.sequence
        assert len(collection.get([hit.id for hit in outcome.neighbours])) == 30
        count += 1
        stop.wait(BREATH_SECONDS)
    return count


def _publish(collection: Collection, stop: threading.Event) -> int:
    number = 0
    while not stop.is_set() or number == 0:
        generation = collection.snapshot()
        assert generation.number >= number, "with nothing new it is the one that was there"
        number = generation.number
        stop.wait(10 * BREATH_SECONDS)
    return number


@pytest.mark.timeout(300)
def test_readers_meet_no_error_while_everything_else_goes_on(open_collection: OpenCollection) -> None:
    """Searches and reads during ingest, seals, merges and snapshots are always right, and so is the end."""
    collection = open_collection(SETTINGS)
    collection.upsert([Record(f"always {at}", VECTORS[at]) for at in range(60)])
    stop = threading.Event()
    with ThreadPoolExecutor(WRITERS + 4) as pool:
        readers = [pool.submit(_read, collection, stop, reader) for reader in range(2)]
        publisher = pool.submit(_publish, collection, stop)
        writers = [pool.submit(_write, collection, writer) for writer in range(WRITERS)]
        try:
            for writer in writers:
                writer.result()
        finally:
            stop.set()
        assert all(reader.result() > 0 for reader in readers)
        assert publisher.result() > 0
    wait_until(lambda: collection.stats().tail_row_count < 64)
    model = model_of(collection)
    assert collection.stats().item_count == len(model)
    assert collection.stats().damage == ()
    assert collection.stats().build_failure is None
    for query in VECTORS[:10]:
        assert list(collection.search(query, limit=50, exact=True).neighbours) == exact_neighbours(model, query, 50)
    collection.close()
    reopened = open_collection(SETTINGS)
    assert model_of(reopened).keys() == model.keys()
    assert reopened.stats().damage == ()


def test_a_batch_is_seen_whole_or_not_at_all(open_collection: OpenCollection) -> None:
    """A reader never sees some records of an upsert without the others, nor an update's old and new vector together."""
    collection = open_collection(SETTINGS)
    ids = [f"item {at}" for at in range(20)]
    collection.upsert([Record(item_id, VECTORS[0]) for item_id in ids])
    stop = threading.Event()

    def read() -> int:
        count = 0
        while not stop.is_set() or count == 0:
            hits = collection.search(VECTORS[0], limit=100, exact=bool(count % 2)).neighbours
            assert sorted(hit.id for hit in hits) == sorted(ids)
            assert len({hit.score for hit in hits}) == 1, "half of a batch was visible"
            count += 1
            stop.wait(BREATH_SECONDS)
        return count

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for at in range(1, 60):
                collection.upsert([Record(item_id, VECTORS[at % 7]) for item_id in ids])
        finally:
            stop.set()
        assert all(reader.result() > 0 for reader in readers)
