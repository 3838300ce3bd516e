"""Ingest over a real model: what a repeated content costs, and what becomes of thumbnails."""

import asyncio
import io
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from clip_search_server.bundle import Bundle
from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.encoder import Encoder
from clip_search_server.encoder.thumbnails import ThumbnailSettings
from clip_search_server.errors import InvalidArgumentError
from clip_search_server.index import Collection
from clip_search_server.limits import Limits
from clip_search_server.search.collection import AsyncCollection
from clip_search_server.search.content import ImageContent, TextContent, VectorContent
from clip_search_server.search.ingest import Item, Stored, upsert_items

LIMITS = Limits()
BULK = Urgency(bulk=True)


def picture(shade: int) -> bytes:
    """A PNG of one colour, larger than what is hashed on the event loop."""
    noise = np.random.default_rng(shade).integers(0, 256, (160, 160, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


class Counted:
    """An encoder whose inferences and decodings are counted."""

    def __init__(self, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoder = encoder
        self.calls: Counter[str] = Counter()
        for name in ("embed_picture", "embed_text", "make_thumbnail"):
            self._count(name, monkeypatch)

    def _count(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        inner = getattr(self.encoder, name)

        async def counted(*arguments: object, **options: object) -> object:
            self.calls[name] += 1
            return await inner(*arguments, **options)

        monkeypatch.setattr(self.encoder, name, counted)


@pytest_asyncio.fixture
async def counted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Counted]:
    """The demo model, making thumbnails."""
    encoder = Encoder.open(Bundle.open(bundle), LIMITS, device="cpu", thumbnails=ThumbnailSettings(64, 10**5))
    yield Counted(encoder, monkeypatch)
    await encoder.close()


@pytest_asyncio.fixture
async def collection(counted: Counted, tmp_path: Path) -> AsyncIterator[AsyncCollection]:
    """An empty collection of its space."""
    encoder = counted.encoder
    index = Collection.open(tmp_path / "index", dim=encoder.dim, space_id=encoder.space_id)
    opened = AsyncCollection("pictures", index)
    yield opened
    await opened.close()


async def store(collection: AsyncCollection, counted: Counted, *items: Item) -> None:
    """Store items, all of which must be good."""
    outcomes = await upsert_items(items, collection, counted.encoder, LIMITS, BULK)
    assert all(isinstance(outcome, Stored) for outcome in outcomes), outcomes


def forget_what_was_recent(collection: AsyncCollection) -> None:
    """Leave nothing but what is stored, as after a restart."""
    collection.repeats._recent.clear()


async def test_the_same_picture_under_many_ids_costs_one_inference(
    collection: AsyncCollection, counted: Counted
) -> None:
    """Fifty ids of three pictures, sent at once, cost three; and every item has the vector of its picture."""
    pictures = [picture(number) for number in range(3)]
    items = [Item(f"{number:02}", ImageContent(pictures[number % 3])) for number in range(50)]
    await store(collection, counted, *items)
    assert counted.calls == {"embed_picture": 3}
    found = await collection.get([item.id for item in items])
    vectors = [item.vector.tobytes() for item in found if item is not None]
    assert len(vectors) == 50
    assert [vectors.index(vector) for vector in vectors] == [number % 3 for number in range(50)]


async def test_what_is_stored_is_not_embedded_again(collection: AsyncCollection, counted: Counted) -> None:
    """After a restart too, the same bytes under the same id or another cost no inference, and other bytes cost one."""
    await store(collection, counted, Item("a", ImageContent(picture(1))))
    forget_what_was_recent(collection)
    counted.calls.clear()
    await store(collection, counted, Item("a", ImageContent(picture(1))), Item("b", ImageContent(picture(1))))
    assert counted.calls["embed_picture"] == 0
    await store(collection, counted, Item("a", ImageContent(picture(2))))
    assert counted.calls["embed_picture"] == 1
    forget_what_was_recent(collection)
    await collection.delete(["b"])
    await store(collection, counted, Item("c", ImageContent(picture(1))))
    assert counted.calls["embed_picture"] == 2


async def test_streams_at_the_same_time_share_the_work(collection: AsyncCollection, counted: Counted) -> None:
    """Eight requests with the same picture cost one inference between them."""
    data = picture(1)
    await asyncio.gather(*(store(collection, counted, Item(f"{n}", ImageContent(data))) for n in range(8)))
    assert counted.calls == {"embed_picture": 1}


async def test_texts_are_embedded_once_too(collection: AsyncCollection, counted: Counted) -> None:
    """The same words under several ids are one text; a picture of the same bytes is another content."""
    await store(collection, counted, *(Item(f"{n}", TextContent("a red bicycle")) for n in range(5)))
    assert counted.calls == {"embed_text": 1}
    outcomes = await upsert_items(
        [Item("x", ImageContent(b"a red bicycle"))], collection, counted.encoder, LIMITS, BULK
    )
    assert isinstance(outcomes[0], InvalidArgumentError)


async def test_a_vector_is_no_content_to_find(collection: AsyncCollection, counted: Counted) -> None:
    """What callers embedded themselves has no digest, so that storing it costs nothing more."""
    await store(collection, counted, Item("v", VectorContent(np.ones(counted.encoder.dim, np.float32))))
    (found,) = await collection.get(["v"])
    assert found is not None
    assert found.content_digest == b""


async def test_a_bad_picture_is_refused_under_each_of_its_ids(collection: AsyncCollection, counted: Counted) -> None:
    """It is looked at once, and each of its items names its field."""
    broken = picture(1)[:2_000]
    items = [Item(f"{n}", ImageContent(broken)) for n in range(4)]
    outcomes = await upsert_items(items, collection, counted.encoder, LIMITS, BULK)
    fields = [outcome.field for outcome in outcomes if isinstance(outcome, InvalidArgumentError)]
    assert fields == ["content.image"] * 4
    assert counted.calls == {"embed_picture": 1}


async def test_every_picture_gets_a_thumbnail(collection: AsyncCollection, counted: Counted) -> None:
    """One that is new, one that comes twice and one that is stored already; an item's own thumbnail is kept."""
    data = picture(1)
    await store(collection, counted, Item("a", ImageContent(data)), Item("b", ImageContent(data)))
    assert counted.calls == {"embed_picture": 1}
    forget_what_was_recent(collection)
    await store(collection, counted, Item("c", ImageContent(data)), Item("d", ImageContent(data), thumbnail=b"own"))
    assert counted.calls["embed_picture"] == 1
    first, second, third, own = await collection.thumbnails(["a", "b", "c", "d"])
    assert first == second == third
    assert (first or b"").startswith(b"RIFF")
    assert own == b"own"


async def test_new_words_keep_the_thumbnail_and_a_new_picture_does_not(
    collection: AsyncCollection, counted: Counted
) -> None:
    """It is made of the picture: it stays as long as that, and goes with it."""
    await store(collection, counted, Item("a", ImageContent(picture(1))))
    (before,) = await collection.thumbnails(["a"])
    await store(collection, counted, Item("a", None, text="new words"))
    assert await collection.thumbnails(["a"]) == [before]
    await store(collection, counted, Item("a", ImageContent(picture(2))))
    (after,) = await collection.thumbnails(["a"])
    assert after not in {before, b"", None}
    await store(collection, counted, Item("a", TextContent("no picture")))
    assert await collection.thumbnails(["a"]) == [b""]
