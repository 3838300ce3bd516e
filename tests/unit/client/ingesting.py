"""Streams of items sent by either client, and what their callers are told."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from clip_search.async_client import AsyncClient
from clip_search.client import Client
from clip_search.contents import Image, Item
from clip_search.ingest import IngestBounds
from clip_search.results import ItemOutcome
from clip_search.resuming import ResumePolicy
from tests.unit.client.fake_server import FakeServer

WINDOW = IngestBounds().items_in_flight_max
FAST = ResumePolicy(backoff_initial_seconds=0.01, backoff_seconds_max=0.05)


def items(count: int, size_bytes: int = 10) -> Iterator[Item]:
    """Make items to send."""
    for number in range(count):
        yield Item(f"item-{number}", Image(bytes(size_bytes)))


@dataclass
class Told:
    """What a caller was told: the outcomes, the error at the end if there was one, and how much had no outcome."""

    outcomes: list[ItemOutcome] = field(default_factory=list)
    error: Exception | None = None
    unanswered: int = 0


class Send(Protocol):
    """Ingests with one of the clients."""

    def __call__(
        self,
        address: str,
        source: Iterable[Item],
        bounds: IngestBounds | None = None,
        *,
        resume: ResumePolicy | None = None,
    ) -> Told:
        """Send items and collect what the caller is told."""


def send_blocking(
    address: str, source: Iterable[Item], bounds: IngestBounds | None = None, *, resume: ResumePolicy | None = None
) -> Told:
    """Send with `Client`."""
    told = Told()
    with Client(address, timeout_seconds=60, resume=resume) as client, client.ingest(source, bounds) as stream:
        try:
            told.outcomes.extend(stream)
        except Exception as error:  # noqa: BLE001  # looked at by the test
            told.error = error
        told.unanswered = stream.in_flight
    return told


def send_awaiting(
    address: str, source: Iterable[Item], bounds: IngestBounds | None = None, *, resume: ResumePolicy | None = None
) -> Told:
    """Send with `AsyncClient`."""
    told = Told()

    async def send() -> None:
        async with (
            AsyncClient(address, timeout_seconds=60, resume=resume) as client,
            client.ingest(source, bounds) as stream,
        ):
            try:
                async for outcome in stream:
                    told.outcomes.append(outcome)
            except Exception as error:  # noqa: BLE001  # looked at by the test
                told.error = error
            told.unanswered = stream.in_flight

    asyncio.run(send())
    return told


def ingest(send: Send, server: FakeServer, source: Iterable[Item], bounds: IngestBounds | None = None) -> list[Any]:
    """Send items, expect no error, and give the outcomes."""
    told = send(server.address, source, bounds)
    assert told.error is None
    assert told.unanswered == 0
    return told.outcomes
