"""The decode pool's order and its bounds on memory, with decoding that the test holds still."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from clip_search_server.bundle import ImagePreprocessing
from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.decode_pool import DecodePool
from clip_search_server.encoder.decoding import Decoded, OpenedPicture, PixelLimits
from clip_search_server.encoder.pixels import load_pixels
from clip_search_server.encoder.thumbnails import ThumbnailSettings
from clip_search_server.errors import DeadlineExceededError, InvalidArgumentError
from tests.unit.encoder.hostile_files import encoded

PREPROCESSING = ImagePreprocessing(32, "shortest", "bicubic", "floor", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LIMITS = PixelLimits(image_bytes_max=10**6, image_pixels_max=10**6)
NOW = Urgency()
BULK = Urgency(bulk=True)
WAIT_SECONDS_MAX = 10.0


class Decoding:
    """Stands in for decoding: notes each picture's width, at once or when `gate` opens."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.at_once_max = 0
        self.gate = threading.Event()
        self.gate.set()
        self._entered = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._at_once = 0

    def decode(self, picture: OpenedPicture) -> Decoded:
        """Serve as `OpenedPicture.decode`."""
        with self._lock:
            self.order.append(picture.width)
            self._at_once += 1
            self.at_once_max = max(self.at_once_max, self._at_once)
        self._entered.release()
        assert self.gate.wait(WAIT_SECONDS_MAX)
        with self._lock:
            self._at_once -= 1
        return Decoded.of(Image.new("RGB", (picture.width, picture.height)))

    async def begun(self, count: int = 1) -> None:
        """Wait until `count` more pictures are being decoded."""
        for _ in range(count):
            assert await asyncio.to_thread(self._entered.acquire, timeout=WAIT_SECONDS_MAX)


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Decoding:
    """Decoding under the test's control."""
    stand_in = Decoding()
    # A function, so that it becomes a method of the picture.
    monkeypatch.setattr(OpenedPicture, "decode", lambda picture: stand_in.decode(picture))  # noqa: PLW0108
    return stand_in


@pytest.fixture
def picture() -> Callable[[int], bytes]:
    """A maker of pictures that their width tells apart."""
    return lambda width: encoded(Image.new("RGB", (width, 20)))


@pytest_asyncio.fixture
async def make() -> AsyncIterator[Callable[..., DecodePool]]:
    """A maker of pools."""
    pools: list[DecodePool] = []

    def build(**options: object) -> DecodePool:
        pools.append(DecodePool(PREPROCESSING, LIMITS, **options))  # type: ignore[arg-type]
        return pools[-1]

    yield build
    for pool in pools:
        pool.close()


async def test_a_picture_is_prepared_as_the_model_wants_it(make: Callable[..., DecodePool]) -> None:
    """The pixels are those of `load_pixels`, and without being asked there is no thumbnail."""
    data = encoded(Image.effect_noise((90, 70), 80).convert("RGB"))
    prepared = await make(thumbnails=ThumbnailSettings(48, 10**5)).prepare(data, NOW)
    assert np.array_equal(prepared.pixels, load_pixels(data, PREPROCESSING, LIMITS))
    assert prepared.thumbnail is None


async def test_a_thumbnail_is_made_where_the_server_makes_them(make: Callable[..., DecodePool]) -> None:
    """It is asked for picture by picture, and a pool without settings makes none."""
    data = encoded(Image.new("RGB", (90, 70)))
    made = await make(thumbnails=ThumbnailSettings(48, 10**5)).prepare(data, NOW, thumbnail=True)
    assert (made.thumbnail or b"").startswith(b"RIFF")
    assert (await make().prepare(data, NOW, thumbnail=True)).thumbnail is None


async def test_a_bad_picture_fails_alone(make: Callable[..., DecodePool]) -> None:
    """Its neighbours are prepared."""
    pool = make(threads=1)
    good = encoded(Image.new("RGB", (40, 40)))
    results = await asyncio.gather(
        *(pool.prepare(data, NOW) for data in (good, b"broken", good)), return_exceptions=True
    )
    assert [isinstance(result, InvalidArgumentError) for result in results] == [False, True, False]


async def test_decoding_is_measured_once_a_picture(make: Callable[..., DecodePool]) -> None:
    """Small ones and those that take turns alike; what is no picture is counted apart."""
    good = encoded(Image.new("RGB", (40, 40)))
    for pool in (make(), make(large_bytes=1)):
        for data in (good, b"broken", good):
            await asyncio.gather(pool.prepare(data, NOW), return_exceptions=True)
        assert sum(pool.figures.run_seconds.counts()) == 2
        assert sum(pool.figures.wait_seconds.counts()) == 2
        assert pool.figures.run_seconds.sum > 0
        assert pool.figures.refused.value == 1


async def test_large_pictures_take_turns_and_small_ones_do_not_wait(
    make: Callable[..., DecodePool], decoding: Decoding, picture: Callable[[int], bytes]
) -> None:
    """With four threads, one picture above the bound is decoded at a time, and any number below it.

    Memory grew from 6 to 42 GB under load elsewhere (TEI #156), and to 40 GB (Infinity #517).
    """
    pool = make(threads=4, large_bytes=8 * 20 * 100)
    decoding.gate.clear()
    large = [asyncio.create_task(pool.prepare(picture(width), NOW)) for width in (101, 102, 103)]
    await decoding.begun()
    small = [asyncio.create_task(pool.prepare(picture(width), NOW)) for width in (51, 52, 53)]
    await decoding.begun(3)
    assert sorted(decoding.order[1:]) == [51, 52, 53]
    decoding.gate.set()
    await asyncio.gather(*large, *small)
    assert decoding.at_once_max == 4
    assert sorted(decoding.order) == [51, 52, 53, 101, 102, 103]


async def test_a_persons_picture_does_not_wait_behind_bulk_work(
    make: Callable[..., DecodePool], decoding: Decoding, picture: Callable[[int], bytes]
) -> None:
    """Of twenty bulk pictures that came first, only those that are at the threads already go ahead."""
    pool = make(threads=1)
    decoding.gate.clear()
    bulk = [asyncio.create_task(pool.prepare(picture(30 + number), BULK)) for number in range(20)]
    await decoding.begun()
    person = asyncio.create_task(pool.prepare(picture(99), NOW))
    await asyncio.sleep(0)
    decoding.gate.set()
    await asyncio.gather(*bulk, person)
    assert decoding.order.index(99) <= 2


async def test_work_that_nobody_waits_for_is_not_begun(
    make: Callable[..., DecodePool], decoding: Decoding, picture: Callable[[int], bytes]
) -> None:
    """A caller that went away while its picture waited costs nothing, and neither does one whose time is up."""
    pool = make(threads=1)
    decoding.gate.clear()
    first = asyncio.create_task(pool.prepare(picture(50), NOW))
    await decoding.begun()
    gone = asyncio.create_task(pool.prepare(picture(51), NOW))
    late = asyncio.create_task(pool.prepare(picture(52), Urgency(deadline=time.monotonic())))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    decoding.gate.set()
    await first
    with pytest.raises(DeadlineExceededError):
        await late
    assert decoding.order == [50]
