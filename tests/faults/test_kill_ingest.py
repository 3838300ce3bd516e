"""SIGKILL of the real server while the client ingests: the stream goes on, each item is stored once, none is lost."""

import asyncio
import queue
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pytest

from clip_search.async_client import AsyncClient
from clip_search.client import Client
from clip_search.contents import Item, Vector
from clip_search.results import ItemOutcome
from demo.server_process import ServerProcess

pytestmark = pytest.mark.faults

DIM = 192
#: Every so many items, one that was sent before is sent again with another text.
UPDATE_EVERY = 10


def free_address() -> str:
    """Give an address that a server can be started on again and again."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


def stream_of(count: int) -> list[Item]:
    """Make a stream with vectors of their own; every tenth item replaces one that came shortly before it."""
    source = np.random.default_rng(7)
    items = []
    for number in range(count):
        target = number - int(source.integers(1, UPDATE_EVERY)) if number % UPDATE_EVERY == UPDATE_EVERY - 1 else number
        vector = source.standard_normal(DIM).astype(np.float32)
        items.append(Item(f"item-{target:05}", Vector(vector), text=f"version {number}"))
    return items


class MortalServer:
    """A server on one address that is killed, and started again, whenever it is told to be."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.address = free_address()
        self.kills = 0
        self._bundle, self._folder = bundle, folder
        self._orders: queue.Queue[bool] = queue.Queue()
        self._failure: BaseException | None = None
        self._server = self._start()
        # On a thread of its own, so that the client meets a server that is away.
        self._thread = threading.Thread(target=self._obey)
        self._thread.start()

    def _start(self) -> ServerProcess:
        folder = self._folder
        return ServerProcess.start(self._bundle, folder / "data", log=folder / "log", listen=self.address)

    def kill(self) -> None:
        """Have it killed soon."""
        self._orders.put(True)

    def _obey(self) -> None:
        try:
            while self._orders.get():
                self._server.kill()
                self.kills += 1
                self._server = self._start()
        except BaseException as error:  # noqa: BLE001  # raised by the test's own thread
            self._failure = error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._orders.put(False)
        self._thread.join()
        self._server.kill()
        if error is None and self._failure is not None:
            raise self._failure


def kill_while_reading(outcomes: Iterable[ItemOutcome], server: MortalServer, every: int, kills: int) -> None:
    """Order a kill after every so many outcomes."""
    for number, _ in enumerate(outcomes, 1):
        if number % every == 0 and number // every <= kills:
            server.kill()


def check_stored(server: MortalServer, sent: list[Item]) -> None:
    """Compare what the server has with what was sent: each id once, with its last text and vector, and nothing else."""
    newest = {item.id: item for item in sent}
    with Client(server.address, wait_for_ready=True) as client:
        stored = list(client.every_item(include_vectors=True))
        figures = client.stats()
    assert [item.id for item in stored] == sorted(newest)
    assert {item.id: item.text for item in stored} == {item_id: item.text for item_id, item in newest.items()}
    for item in stored:
        content = newest[item.id].content
        assert isinstance(content, Vector)
        assert item.vector is not None
        assert float(item.vector @ content.values) == pytest.approx(float(np.linalg.norm(content.values)), rel=1e-4)
    assert figures.items == len(newest)


def watched(outcomes: Iterator[ItemOutcome], seen: list[ItemOutcome]) -> Iterator[ItemOutcome]:
    """Pass outcomes on and keep them."""
    for outcome in outcomes:
        seen.append(outcome)
        yield outcome


def check_outcomes(seen: list[ItemOutcome], sent: list[Item]) -> None:
    """Every item of the stream has one outcome, and that is: stored."""
    assert Counter(outcome.index for outcome in seen) == Counter(range(len(sent)))
    assert all(outcome.error is None and outcome.id == sent[outcome.index].id for outcome in seen)


@pytest.mark.timeout(300)
def test_ten_kills_during_an_ingest_lose_and_double_nothing(bundle: Path, tmp_path: Path) -> None:
    """A stream of 5,000 items over a server that is killed ten times stores every item once, the last of each id."""
    sent = stream_of(5_000)
    seen: list[ItemOutcome] = []
    with MortalServer(bundle, tmp_path) as server:
        with Client(server.address) as client, client.ingest(iter(sent)) as outcomes:
            kill_while_reading(watched(iter(outcomes), seen), server, every=450, kills=10)
        check_outcomes(seen, sent)
        check_stored(server, sent)
        assert server.kills == 10


@pytest.mark.timeout(200)
def test_the_asynchronous_client_survives_kills_too(bundle: Path, tmp_path: Path) -> None:
    """The same over asyncio, with three kills in 1,500 items drawn from an asynchronous iterable."""
    sent = stream_of(1_500)
    seen: list[ItemOutcome] = []

    async def ingest(server: MortalServer) -> None:
        async def source() -> AsyncIterator[Item]:
            for item in sent:
                yield item

        async with AsyncClient(server.address) as client, client.ingest(source()) as outcomes:
            async for outcome in outcomes:
                seen.append(outcome)
                if len(seen) % 400 == 0:
                    server.kill()

    with MortalServer(bundle, tmp_path) as server:
        asyncio.run(ingest(server))
        check_outcomes(seen, sent)
        check_stored(server, sent)
        assert server.kills == 3
