"""The open collections of a server: changes one at a time and to the end, whoever asked for them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio

from clip_search_server.encoder.encoder import Encoder
from clip_search_server.errors import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
    SpaceMismatchError,
    UnavailableError,
)
from clip_search_server.index import IndexSettings, Record, sealing
from clip_search_server.index.entries import Tuning
from clip_search_server.index.types import FloatArray
from clip_search_server.search.catalog import DEFAULT_NAME, Catalog
from clip_search_server.search.collection import AsyncCollection
from clip_search_server.search.snapshots import snapshot_all
from tests.unit.index.support import DIM, SPACE, random_vectors

VECTORS = random_vectors(10, seed=1)


class FakeEncoder:
    """All that a catalog asks of an encoder."""

    dim = DIM

    def __init__(self, space_id: str = SPACE) -> None:
        self.space_id = space_id

    async def close(self) -> None:
        """Nothing to close."""


async def opened(data: Path, *, space_id: str = SPACE, collections_max: int = 4) -> Catalog:
    """Open a catalog with one model."""
    models = {DEFAULT_NAME: cast("Encoder", FakeEncoder(space_id))}
    return await Catalog.open(models, data, IndexSettings(), collections_max=collections_max)


@pytest_asyncio.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[Catalog]:
    """The catalog of a new data folder."""
    made = await opened(tmp_path / "data")
    yield made
    await made.close()


async def _names(catalog: Catalog) -> list[str]:
    return [info.name for info in await catalog.listing()]


async def test_likely_queries_reach_segments_of_their_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collections that were open and those made later are tuned for them; another space's queries are left alone."""
    tuned_for: list[FloatArray] = []

    def tune(_segment: object, _vectors: FloatArray, queries: FloatArray, *_more: object, **_options: object) -> Tuning:
        tuned_for.append(queries)
        return Tuning(ef=64, recall=1.0, recall_target=0.98)

    monkeypatch.setattr(sealing, "tune", tune)
    models = {DEFAULT_NAME: cast("Encoder", FakeEncoder())}
    settings = IndexSettings(tail_rows_max=len(VECTORS))
    catalog = await Catalog.open(models, tmp_path / "data", settings, collections_max=4)
    likely = random_vectors(5, seed=2)
    catalog.expect_queries(SPACE, likely)
    catalog.expect_queries("another", random_vectors(3, seed=3))
    await catalog.create("later", "")
    for name in (DEFAULT_NAME, "later"):
        collection = catalog.collection(name)
        records = [Record(f"{at}", vector=vector) for at, vector in enumerate(VECTORS)]
        await collection.upsert(records, patience_seconds=30)
        await asyncio.wait_for(_sealed(collection), 30)
    await catalog.close()
    assert [queries.tolist() for queries in tuned_for] == [likely.tolist()] * 2


async def _sealed(collection: AsyncCollection) -> None:
    while not (await collection.stats()).segments:  # noqa: ASYNC110 - a thread of the index does it
        await asyncio.sleep(0.01)


async def test_of_many_who_create_one_name_one_succeeds(catalog: Catalog) -> None:
    """The others are told that it exists."""
    outcomes = await asyncio.gather(*(catalog.create("new", "") for _ in range(5)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, AlreadyExistsError)]
    assert len(refused) == 4
    assert await _names(catalog) == ["default", "new"]


async def test_the_bound_holds_when_many_create_at_once(catalog: Catalog) -> None:
    """Three fit beside the default one."""
    outcomes = await asyncio.gather(*(catalog.create(f"c{at}", "") for at in range(8)), return_exceptions=True)
    assert sum(isinstance(outcome, ResourceExhaustedError) for outcome in outcomes) == 5
    assert len(await _names(catalog)) == 4


async def test_a_change_goes_on_when_its_caller_goes_away(catalog: Catalog) -> None:
    """A cancelled creation and a cancelled deletion are whole in the end, in memory as on the disk."""
    await catalog.create("old", "")
    tasks = [asyncio.create_task(catalog.create("new", "")), asyncio.create_task(catalog.delete("old"))]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await catalog.set_alias("after", DEFAULT_NAME)  # Comes after them in line.
    assert await _names(catalog) == ["default", "new"]
    assert catalog.collection("new").item_count == 0
    with pytest.raises(NotFoundError):
        catalog.collection("old")


async def test_a_request_ends_on_the_collection_it_began_with(catalog: Catalog) -> None:
    """What was looked up stays, wherever the alias points by then."""
    await catalog.create("new", "")
    await catalog.set_alias("current", DEFAULT_NAME)
    begun = catalog.collection("current")
    await catalog.set_alias("current", "new")
    await begun.upsert([Record("item", VECTORS[0])], patience_seconds=1.0)
    assert catalog.collection("current").item_count == 0
    assert catalog.collection("").item_count == 1


async def test_a_deleted_collection_says_so_to_those_who_still_hold_it(catalog: Catalog) -> None:
    """NOT_FOUND, and after a stop UNAVAILABLE."""
    await catalog.create("new", "")
    held, kept = catalog.collection("new"), catalog.collection("")
    await catalog.delete("new")
    with pytest.raises(NotFoundError, match="'new' has been deleted"):
        await held.get(["item"])
    await catalog.close()
    with pytest.raises(UnavailableError, match="stopping"):
        await kept.get(["item"])


async def test_a_disk_that_refuses_leaves_the_collection_serving(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion that could not be written down has not happened."""

    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    await catalog.create("new", "")
    with monkeypatch.context() as patch:
        patch.setattr("clip_search_server.index.data_folder.write_catalog", full)
        for change in (catalog.delete("new"), catalog.create("other", ""), catalog.set_alias("current", "new")):
            with pytest.raises(UnavailableError, match="No space left"):
                await change
    await catalog.collection("new").upsert([Record("item", VECTORS[0])], patience_seconds=1.0)
    assert await _names(catalog) == ["default", "new"]


async def test_a_collection_that_cannot_be_opened_was_not_created(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes the empty store and nothing more: the refusal holds, and the name stays free."""

    def full(*_args: object, **_kwargs: object) -> Any:
        raise UnavailableError("store.sqlite3 cannot be opened (database or disk is full); check the disk")

    with monkeypatch.context() as patch:
        patch.setattr("clip_search_server.search.catalog.Collection.open_existing", full)
        with pytest.raises(UnavailableError, match=r"collection 'new' could not be created .*disk is full"):
            await catalog.create("new", "")
    assert await _names(catalog) == ["default"]
    await catalog.create("new", "")
    assert await _names(catalog) == ["default", "new"]


async def test_a_damaged_default_collection_keeps_nobody_from_serving(tmp_path: Path) -> None:
    """It is listed with the reason, and asking for it gives DATA_LOSS."""
    data = tmp_path / "data"
    first = await opened(data)
    await first.create("whole", "")
    await first.close()
    store = data / "collections" / "default" / "store.sqlite3"
    store.write_bytes(store.read_bytes()[:50])
    catalog = await opened(data)
    try:
        with pytest.raises(DataLossError, match=r"'default' cannot be used: .*restore it from a backup"):
            catalog.collection("")
        damaged, whole = await catalog.listing()
        assert damaged.damage is not None
        assert (damaged.space_id, whole.damage) == (SPACE, None)
        await snapshot_all(catalog)
    finally:
        await catalog.close()


@pytest.mark.parametrize("why", ["space", "format"])
async def test_a_folder_that_is_the_wrong_one_is_refused(tmp_path: Path, why: str) -> None:
    """Where the default collection is another model's or a newer release's; nothing is changed."""
    data = tmp_path / "data"
    await (await opened(data)).close()
    store = data / "collections" / "default" / "store.sqlite3"
    if why == "format":
        content = bytearray(store.read_bytes())
        content[60:64] = (9).to_bytes(4, "big")
        store.write_bytes(content)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != "lock"}
    kind = SpaceMismatchError if why == "space" else FailedPreconditionError
    with pytest.raises(kind, match="nothing was changed"):
        await opened(data, space_id="another" if why == "space" else SPACE)
    after = {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != "lock"}
    assert after == before
    if why == "space":
        await (await opened(data)).close()


def _two_models(*spaces: str) -> dict[str, Encoder]:
    return {f"model {at}": cast("Encoder", FakeEncoder(space)) for at, space in enumerate(spaces)}


async def test_a_default_collection_without_its_model_keeps_nobody_from_serving(tmp_path: Path) -> None:
    """As long as any collection is of a model's space: it is listed with the reason, and can be read."""
    data = tmp_path / "data"
    models = _two_models("old", "new")
    first = await Catalog.open(models, data, IndexSettings(), collections_max=4)
    created = await first.create("fresh", "model 1")
    assert (created.space_id, created.unusable) == ("new", None)
    assert first.pair("fresh", "")[1] is models["model 1"]
    await first.close()
    catalog = await opened(data, space_id="new")
    try:
        default, fresh = await catalog.listing()
        assert (default.damage, fresh.unusable) == (None, None)
        assert "space old" in (default.unusable or "")
        assert catalog.collection("").space_id == "old"
        with pytest.raises(SpaceMismatchError, match="no model of this server makes"):
            catalog.pair("", "")
    finally:
        await catalog.close()


async def test_a_folder_that_fits_none_of_several_models_is_refused(tmp_path: Path) -> None:
    """With the space of the collection and those of all models; nothing is changed."""
    data = tmp_path / "data"
    await (await opened(data)).close()
    with pytest.raises(SpaceMismatchError, match=rf"'default'.*{SPACE}.*of one, .*of two.*nothing was changed"):
        await Catalog.open(_two_models("one", "two"), data, IndexSettings(), collections_max=4)
