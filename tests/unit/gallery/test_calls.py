"""Calls to the server from the event loop."""

import asyncio
import threading

import pytest

from clip_search.client import Client
from clip_search.errors import UnreachableError
from clip_search_gallery.calls import Calls, UnwantedError
from tests.unit.gallery.conftest import PictureServer


async def test_what_nobody_waits_for_any_more_is_not_asked(server: PictureServer) -> None:
    """A call that had to wait for its place is dropped if its browser turned away meanwhile."""
    calls = Calls(lambda: Client(server.address), calls_max=1)
    release = threading.Event()
    first = asyncio.create_task(calls.run(lambda _: release.wait(20)))
    gone = asyncio.Event()

    async def is_gone() -> bool:
        return gone.is_set()

    second = asyncio.create_task(calls.run(Client.stats, is_gone))
    await asyncio.sleep(0)
    gone.set()
    release.set()
    assert await first
    with pytest.raises(UnwantedError):
        await second
    assert server.requests == []
    assert (await calls.run(Client.stats)).items == 0
    calls.close()


async def test_a_connection_that_failed_is_made_anew(server: PictureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has come up is found at once, however long it was away."""
    monkeypatch.setattr("clip_search_gallery.calls._RENEWAL_SECONDS", 0.0)
    addresses = ["127.0.0.1:1", server.address]
    calls = Calls(lambda: Client(addresses.pop(0)))
    with pytest.raises(UnreachableError):
        await calls.run(Client.stats)
    assert calls.server == server.address
    assert (await calls.run(Client.stats)).items == 0
    calls.close()


async def test_calls_under_way_keep_the_connection_that_is_replaced(
    server: PictureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call ends as it would have ended, and the old connection is closed after the last of them."""
    monkeypatch.setattr("clip_search_gallery.calls._RENEWAL_SECONDS", 0.0)
    clients = [Client(server.address), Client(server.address)]
    calls = Calls(iter(clients).__next__)
    begun, release = threading.Event(), threading.Event()

    def ask_late(client: Client) -> int:
        begun.set()
        assert release.wait(20)
        return client.stats().items

    def fail(_: Client) -> None:
        raise UnreachableError("cannot reach it")

    late = asyncio.create_task(calls.run(ask_late))
    await asyncio.to_thread(begun.wait, 20)
    with pytest.raises(UnreachableError):
        await calls.run(fail)
    release.set()
    assert await late == 0
    with pytest.raises(ValueError, match="closed"):
        clients[0].stats()
    assert (await calls.run(Client.stats)).items == 0
    calls.close()


async def test_what_the_server_is_is_asked_once(server: PictureServer) -> None:
    """Until it was away."""
    calls = Calls(lambda: Client(server.address))
    assert (await calls.limits()).search_limit_max == 100
    await calls.info()
    assert len(server.requests) == 1
    calls.forget()
    await calls.info()
    assert len(server.requests) == 2
    calls.close()
