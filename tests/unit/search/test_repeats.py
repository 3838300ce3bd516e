"""Contents that come again are embedded once, whoever sends them and whatever becomes of the sender."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from clip_search_server.encoder.encoder import EmbeddedPicture, Vector
from clip_search_server.errors import DeadlineExceededError, InvalidArgumentError
from clip_search_server.search import repeats as repeats_module
from clip_search_server.search.repeats import Repeats

MADE = EmbeddedPicture(np.ones(4, np.float32), b"thumbnail")


class Model:
    """Counts what it embeds; waits for `gate`; raises what it is told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = asyncio.Event()
        self.begun = asyncio.Semaphore(0)
        self.errors: list[BaseException] = []

    async def embed(self) -> EmbeddedPicture:
        """Serve as `embed`."""
        self.calls += 1
        self.begun.release()
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        return MADE


def stored(*digests: bytes) -> Callable[[bytes], Awaitable[Vector | None]]:
    """A collection that holds these."""

    async def find(digest: bytes) -> Vector | None:
        return np.zeros(4, np.float32) if digest in digests else None

    return find


@pytest.fixture
def model() -> Model:
    """A model that answers only when its gate is opened."""
    return Model()


async def test_what_comes_while_it_is_embedded_waits_for_that(model: Model) -> None:
    """Five at once cost one inference, and so does a sixth a moment later."""
    repeats = Repeats(stored())
    tasks = [asyncio.create_task(repeats.embed_once(b"d", model.embed)) for _ in range(5)]
    await asyncio.sleep(0)
    model.gate.set()
    assert await asyncio.gather(*tasks) == [MADE] * 5
    assert await repeats.embed_once(b"d", model.embed) is MADE
    assert model.calls == 1


async def test_what_is_stored_costs_nothing(model: Model) -> None:
    """The collection's vector is taken; nothing is known of a thumbnail."""
    found = await Repeats(stored(b"d")).embed_once(b"d", model.embed)
    assert (model.calls, found.thumbnail, found.vector.tolist()) == (0, None, [0.0] * 4)


async def test_what_was_recognized_is_counted(model: Model) -> None:
    """Whoever waited, came later or was found stored is recognized; what failed is neither."""
    model.gate.set()
    repeats = Repeats(stored(b"s"))
    await asyncio.gather(*(repeats.embed_once(b"d", model.embed) for _ in range(3)))
    await repeats.embed_once(b"s", model.embed)
    model.errors = [InvalidArgumentError("image", "is damaged.")]
    with pytest.raises(InvalidArgumentError):
        await repeats.embed_once(b"bad", model.embed)
    assert (repeats.embedded.value, repeats.recognized.value) == (1, 3)


async def test_different_contents_do_not_wait_for_each_other(model: Model) -> None:
    """Only the same digest is the same content."""
    repeats = Repeats(stored())
    tasks = [asyncio.create_task(repeats.embed_once(digest, model.embed)) for digest in (b"a", b"b", b"c")]
    for _ in tasks:
        await model.begun.acquire()
    model.gate.set()
    await asyncio.gather(*tasks)


async def test_a_caller_that_goes_away_takes_nobody_along(model: Model) -> None:
    """When the one who began is cancelled, the next begins anew and the third waits for that."""
    repeats = Repeats(stored())
    first, second, third = (asyncio.create_task(repeats.embed_once(b"d", model.embed)) for _ in range(3))
    await model.begun.acquire()
    first.cancel()
    await asyncio.wait([first])
    model.gate.set()
    assert [await second, await third] == [MADE, MADE]
    assert model.calls == 2


async def test_a_deadline_is_only_its_owners(model: Model) -> None:
    """When the one who began runs out of time, others with time left are served."""
    model.errors = [DeadlineExceededError("late")]
    model.gate.set()
    repeats = Repeats(stored())
    results = await asyncio.gather(*(repeats.embed_once(b"d", model.embed) for _ in range(3)), return_exceptions=True)
    assert [isinstance(result, EmbeddedPicture) for result in results] == [False, True, True]
    assert model.calls == 2


async def test_a_bad_picture_is_bad_for_all_who_wait(model: Model) -> None:
    """It is looked at once for all of them, and again when it comes again."""
    model.errors = [InvalidArgumentError("image", "is damaged.")] * 2
    repeats = Repeats(stored())
    tasks = [asyncio.create_task(repeats.embed_once(b"d", model.embed)) for _ in range(4)]
    await asyncio.sleep(0)
    model.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, InvalidArgumentError) for result in results)
    assert model.calls == 1
    with pytest.raises(InvalidArgumentError):
        await repeats.embed_once(b"d", model.embed)


async def test_what_is_remembered_is_bounded(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten, and no flight is kept."""
    monkeypatch.setattr(repeats_module, "_RECENT_MAX", 3)
    model.gate.set()
    repeats = Repeats(stored())
    for number in range(10):
        await repeats.embed_once(bytes([number]), model.embed)
    assert (list(repeats._recent), repeats._flights) == ([b"\x07", b"\x08", b"\x09"], {})
