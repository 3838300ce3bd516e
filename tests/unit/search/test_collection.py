import asyncio
import math
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from clip_search_server.errors import ResourceExhaustedError
from clip_search_server.index import Collection, IndexSettings, Record
from clip_search_server.search.collection import AsyncCollection
from tests.unit.index.support import DIM, SPACE, WAIT_SECONDS_MAX, BruteForceEngine, random_vectors

VECTORS = random_vectors(30, seed=1)


def records(first: int, last: int) -> list[Record]:
    """Records with distinct ids and vectors."""
    return [Record(f"{at:02}", VECTORS[at]) for at in range(first, last)]


@pytest.fixture
def gate() -> threading.Event:
    """Until it is set no segment is built."""
    return threading.Event()


@pytest_asyncio.fixture
async def full(tmp_path: Path, gate: threading.Event) -> AsyncIterator[AsyncCollection]:
    """A collection with no room for another record until `gate` is set."""

    def wait() -> None:
        assert gate.wait(WAIT_SECONDS_MAX)

    settings, engine = IndexSettings(tail_rows_max=10), BruteForceEngine(wait)
    index = Collection.open(tmp_path / "index", dim=DIM, space_id=SPACE, settings=settings, engine=engine)
    collection = AsyncCollection("full", index)
    await collection.upsert(records(0, 20), patience_seconds=0)
    yield collection
    gate.set()
    await collection.close()


async def test_an_upsert_without_patience_is_refused_whole(full: AsyncCollection) -> None:
    """Nothing is written, and the error says so."""
    with pytest.raises(ResourceExhaustedError, match="more slowly"):
        await full.upsert(records(20, 22), patience_seconds=0.05)
    assert await full.get(["20", "21"]) == [None, None]


async def test_a_patient_upsert_waits_while_everything_else_goes_on(
    full: AsyncCollection, gate: threading.Event
) -> None:
    """More upserts than there are writer threads wait for room; deletes, reads and snapshots do not wait with them."""
    waiting = [asyncio.create_task(full.upsert(records(at, at + 1), patience_seconds=math.inf)) for at in range(20, 30)]
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        assert (await full.delete(["00"])).deleted == 1
        assert (await full.snapshot()).item_count == 19
        assert not any(task.done() for task in waiting)
        gate.set()
        outcomes = await asyncio.gather(*waiting)
    assert {outcome.results[0] for outcome in outcomes} == set(range(22, 32))
