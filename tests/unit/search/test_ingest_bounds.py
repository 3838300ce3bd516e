"""The ingest pipeline's bounds, over an encoder that the test holds still."""

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any, cast

import numpy as np
import pytest

from clip_search_server.encoder.batching import Gate, Urgency
from clip_search_server.encoder.encoder import EmbeddedPicture, Encoder
from clip_search_server.errors import InvalidArgumentError
from clip_search_server.index import UpsertOutcome
from clip_search_server.limits import Limits
from clip_search_server.search import content
from clip_search_server.search.collection import AsyncCollection
from clip_search_server.search.content import ImageContent, TextContent, content_digest
from clip_search_server.search.ingest import Ingest, Item, ItemOutcome, Stored
from clip_search_server.spans import Span, within
from tests.recorded_spans import RecordedSpan

BULK = Urgency(bulk=True)


class HeldEncoder:
    """Embeds nothing until told, and counts the bytes it holds."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.held_bytes = 0
        self.most_bytes = 0

    makes_thumbnails = False

    async def embed_picture(self, data: bytes, urgency: Urgency, *, thumbnail: bool) -> EmbeddedPicture:
        """Wait for `go`."""
        self.held_bytes += len(data)
        self.most_bytes = max(self.most_bytes, self.held_bytes)
        await self.go.wait()
        await asyncio.sleep(0)
        self.held_bytes -= len(data)
        return EmbeddedPicture(np.ones(2, np.float32), None)


class NoRepeats:
    """Takes every content for a new one."""

    async def embed_once(self, _digest: bytes, embed: Callable[[], Awaitable[EmbeddedPicture]]) -> EmbeddedPicture:
        """Embed it."""
        return await embed()


class MemoryCollection:
    """Stores everything it is given."""

    repeats = NoRepeats()
    keeps_images = False

    async def upsert(self, records: list[Any], *, patience_seconds: float) -> UpsertOutcome:
        """Give each record the next number."""
        return UpsertOutcome(tuple(range(1, len(records) + 1)), len(records), (False,) * len(records))


def pipeline(encoder: HeldEncoder, gate: Gate, answers: list[ItemOutcome]) -> Ingest:
    """A pipeline whose answers are collected."""

    async def answer(_index: int, _item_id: str, outcome: ItemOutcome) -> None:
        answers.append(outcome)

    collection = cast("AsyncCollection", MemoryCollection())
    return Ingest(collection, cast("Encoder", encoder), Limits(), BULK, answer, gate=gate)


async def test_bytes_of_all_streams_together_are_bounded() -> None:
    """Streams of large pictures wait for each other instead of filling the memory (TEI #156), and all are stored."""
    encoder, gate = HeldEncoder(), Gate(items_max=1_000, bytes_max=100_000)
    answers: list[ItemOutcome] = []

    async def stream(number: int) -> None:
        ingest = pipeline(encoder, gate, answers)
        running = asyncio.create_task(ingest.run())
        for index in range(20):
            await ingest.add(index, Item(f"{number}/{index}", ImageContent(bytes(30_000))))
        ingest.finish()
        await running

    streams = [asyncio.create_task(stream(number)) for number in range(4)]
    for _ in range(50):
        await asyncio.sleep(0)
    assert encoder.held_bytes == 90_000
    encoder.go.set()
    await asyncio.wait_for(asyncio.gather(*streams), 20)
    assert encoder.most_bytes <= 100_000
    assert sum(isinstance(outcome, Stored) for outcome in answers) == 80
    assert (gate.items, gate.bytes) == (0, 0)


async def test_a_client_that_reads_no_answers_holds_up_nobody_else() -> None:
    """Its pictures are let go once they are embedded, so another stream's find room."""
    encoder, gate = HeldEncoder(), Gate(items_max=1_000, bytes_max=100_000)
    encoder.go.set()
    unread = asyncio.Event()

    async def never(_index: int, _item_id: str, _outcome: ItemOutcome) -> None:
        await unread.wait()

    collection = cast("AsyncCollection", MemoryCollection())
    stuck = Ingest(collection, cast("Encoder", encoder), Limits(), BULK, never, gate=gate)
    running = asyncio.create_task(stuck.run())
    for index in range(20):
        await asyncio.wait_for(stuck.add(index, Item(f"{index}", ImageContent(bytes(30_000)))), 5)
    answers: list[ItemOutcome] = []
    other = pipeline(encoder, gate, answers)
    await asyncio.wait_for(other.add(0, Item("other", ImageContent(bytes(90_000)))), 5)
    other.finish()
    await asyncio.wait_for(other.run(), 5)
    assert isinstance(answers[0], Stored)
    running.cancel()


async def test_large_pictures_are_hashed_on_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing megabytes takes milliseconds, in which the event loop would stand still; the digest is the same."""
    threads: list[threading.Thread] = []
    plain = content._image_digest

    def noted(data: bytes) -> bytes:
        threads.append(threading.current_thread())
        return plain(data)

    monkeypatch.setattr(content, "_image_digest", noted)
    data = bytes(1_000_000)
    assert await content_digest(ImageContent(data)) == hashlib.sha256(b"image\0" + data).digest()
    assert await content_digest(ImageContent(b"short")) == hashlib.sha256(b"image\0short").digest()
    assert await content_digest(TextContent("short")) == hashlib.sha256(b"text\0short").digest()
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


async def test_pictures_that_are_to_be_kept_are_bounded_until_they_are_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They live until their items are answered: a client that reads no answers is stopped by its own pictures alone."""
    monkeypatch.setattr("clip_search_server.search.ingest._KEPT_BYTES_MAX", 100_000)
    encoder = HeldEncoder()
    encoder.go.set()
    unread, collection = asyncio.Event(), MemoryCollection()
    collection.keeps_images = True
    begun: list[int] = []
    images: list[bytes] = []

    async def answer(_index: int, _item_id: str, _outcome: ItemOutcome) -> None:
        await unread.wait()

    async def upsert(records: list[Any], *, patience_seconds: float) -> UpsertOutcome:
        images.extend(record.image for record in records)
        return await MemoryCollection().upsert(records, patience_seconds=patience_seconds)

    monkeypatch.setattr(collection, "upsert", upsert)
    stuck = Ingest(cast("AsyncCollection", collection), cast("Encoder", encoder), Limits(), BULK, answer)

    async def feed() -> None:
        for index in range(30):
            await stuck.add(index, Item(f"{index}", ImageContent(bytes(30_000 if index else 200_000))))
            begun.append(index)
        stuck.finish()

    tasks = [asyncio.create_task(stuck.run()), asyncio.create_task(feed())]
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert begun == [0]  # larger than the bound, so alone
    unread.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 20)
    assert [len(image) for image in images] == [200_000] + [30_000] * 29
    assert stuck._kept_bytes == {}


async def test_one_item_at_a_time_is_followed() -> None:
    """However many there are: each from its arrival to its answer, the next only then; the rest is in no span."""
    encoder, gate, call = HeldEncoder(), Gate(items_max=1_000, bytes_max=100_000), RecordedSpan()
    seen: list[Span | None] = []
    encoder.go.set()

    async def answer(_index: int, _item_id: str, _outcome: ItemOutcome) -> None:
        seen.append(next((item for item in call.children if not item.ended), None))
        assert sum(not item.ended for item in call.children) <= 1

    collection = cast("AsyncCollection", MemoryCollection())
    with within(call):
        ingest = Ingest(collection, cast("Encoder", encoder), Limits(), BULK, answer, gate=gate)
        running = asyncio.create_task(ingest.run())
        for index in range(300):
            await ingest.add(index, Item(f"{index}", ImageContent(b"picture")))
        ingest.finish()
        await asyncio.wait_for(running, 20)
    assert len(seen) == 300
    assert 1 < len(call.children) < 300
    assert {item.name for item in call.children} == {"item"}
    assert all(item.ended and item.error is None for item in call.children)


async def test_an_item_that_is_followed_ends_however_it_ends() -> None:
    """Refused, or cut off with the whole stream: its span has the error."""
    encoder, call = HeldEncoder(), RecordedSpan()
    with within(call):
        ingest = pipeline(encoder, Gate(items_max=1_000, bytes_max=100_000), [])
        running = asyncio.create_task(ingest.run())
        await ingest.add(0, Item("", ImageContent(b"no id")))
        for _ in range(50):
            await asyncio.sleep(0)
        await ingest.add(1, Item("a", ImageContent(b"held")))
        for _ in range(50):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
    refused, cut_off = call.children
    assert isinstance(refused.error, InvalidArgumentError)
    assert isinstance(cut_off.error, asyncio.CancelledError)
