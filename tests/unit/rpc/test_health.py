"""What health checks are told, as collections get into trouble and out of it."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from grpc_health.v1 import health_pb2

from clip_search_server.rpc import health as health_module
from clip_search_server.rpc.health import SERVICE_NAMES, Health
from clip_search_server.search.catalog import Catalog

INDEX, SEARCH = "clip_search.v1.IndexService", "clip_search.v1.SearchService"


@dataclass
class FakeCollection:
    """A collection whose disk fails when told."""

    name: str
    write_failure: str | None = None


@dataclass
class FakeCatalog:
    """Collections that were opened, and names of those that were not."""

    collections: list[FakeCollection] = field(default_factory=list)
    unopened: tuple[str, ...] = ()


def health_of(catalog: FakeCatalog) -> Health:
    """The health of a server with these collections."""
    return Health(cast("Catalog", catalog))


async def ailing(health: Health) -> set[str]:
    """Return the services that a check is told not to serve."""
    check: Any = health.servicer.Check
    answers = {
        name: (await check(health_pb2.HealthCheckRequest(service=name), None)).status for name in ("", *SERVICE_NAMES)
    }
    return {name for name, status in answers.items() if status == health_pb2.HealthCheckResponse.NOT_SERVING}


async def test_a_server_whose_collections_are_well_serves() -> None:
    """Everything, be there collections or not."""
    for collections in ([], [FakeCollection("default"), FakeCollection("pets")]):
        health = health_of(FakeCatalog(collections))
        await health.look()
        assert await ailing(health) == set()


async def test_a_disk_that_fails_keeps_writers_away_and_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """One such collection is enough; it is told of once, and again when it is over."""
    caplog.set_level(logging.INFO)
    pets = FakeCollection("pets")
    catalog = FakeCatalog([FakeCollection("default"), pets])
    health = health_of(catalog)
    await health.look()
    pets.write_failure = "disk I/O error"
    for _ in range(3):
        await health.look()
        assert await ailing(health) == {INDEX}
    catalog.collections.remove(pets)  # It was deleted.
    await health.look()
    assert await ailing(health) == set()
    assert [record.getMessage() for record in caplog.records] == [
        f"{INDEX} is NOT_SERVING: writes are refused since the disk failed (pets)",
        f"{INDEX} is SERVING again",
    ]


async def test_where_no_collection_could_be_opened_nothing_is_to_be_found() -> None:
    """Nor stored; texts can still be embedded. One that could be opened is enough to serve."""
    catalog = FakeCatalog(unopened=("default",))
    health = health_of(catalog)
    await health.look()
    assert await ailing(health) == {INDEX, SEARCH}
    catalog.collections.append(FakeCollection("pets"))
    await health.look()
    assert await ailing(health) == set()


async def test_changes_are_noticed_until_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself; from the drain on nothing serves, whatever is found."""
    monkeypatch.setattr(health_module, "_LOOK_SECONDS", 0.001)
    collection = FakeCollection("default")
    health = health_of(FakeCatalog([collection]))
    await health.look()
    watching = asyncio.create_task(health.watch())
    collection.write_failure = "disk I/O error"
    async with asyncio.timeout(10):
        while INDEX not in await ailing(health):  # noqa: ASYNC110 - what is waited for
            await asyncio.sleep(0.001)
        await health.drain()
        collection.write_failure = None
        await asyncio.sleep(0.01)
    assert await ailing(health) == {"", *SERVICE_NAMES}
    watching.cancel()
