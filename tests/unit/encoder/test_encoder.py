"""The encoder as a whole: over towers that the test watches, and over the demo model."""

import asyncio
import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio
from PIL import Image

from clip_search_server.bundle import Bundle
from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.decode_pool import DecodePool, Prepared
from clip_search_server.encoder.encoder import Encoder, EncoderThreads
from clip_search_server.encoder.precision import Precision
from clip_search_server.encoder.sessions import CPU, Device
from clip_search_server.encoder.tokens import Tokenizer, Tokens
from clip_search_server.encoder.towers import EncoderSettings, Towers
from clip_search_server.encoder.tuning.cache import TuningCache
from clip_search_server.encoder.tuning.timings import Timing, TowerTuning, Tuning
from clip_search_server.errors import DeadlineExceededError, ResourceExhaustedError
from clip_search_server.limits import Limits

NOW = Urgency()
DIM = 192
#: Neighbours change the order in which a product adds up, nothing else: some units in the last place of FP32.
NEIGHBOUR_NOISE_MAX = 1e-5


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> bytes:
    """A picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


class FakeTower:
    """Gives every input the same vector; stands still while `gate` is closed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batch_sizes: list[int] = []

    def run(self, inputs: list[Tokens] | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Serve as either tower."""
        self.batch_sizes.append(len(inputs))
        assert self.gate.wait(20)
        return np.full((len(inputs), DIM), DIM**-0.5, np.float32)


class Watched:
    """An encoder over fake towers."""

    def __init__(self, bundle: Bundle, folder: Path, limits: Limits, settings: EncoderSettings) -> None:
        self.image, self.text = FakeTower(), FakeTower()
        timings = Timing(1, 1, 0.01), Timing(2, 1, 0.02)
        tuning = Tuning(TowerTuning(1, 1, timings), TowerTuning(1, 77, timings))
        self.cache = TuningCache(folder, {"bundle": "fake"})
        self.threads = EncoderThreads()
        self.encoder = Encoder(
            bundle.manifest,
            Tokenizer.from_bundle(bundle),
            Towers(self.image, self.text, tuning, self.cache),
            limits,
            precision=Precision("fp32", "a test"),
            device=Device(CPU, "cpu", "a test"),
            threads=self.threads,
            settings=settings,
        )


@contextlib.asynccontextmanager
async def watched(
    bundle: Path, folder: Path, limits: Limits | None = None, settings: EncoderSettings | None = None
) -> AsyncIterator[Watched]:
    """An encoder that is closed at the end."""
    made = Watched(Bundle.open(bundle), folder, limits or Limits(), settings or EncoderSettings())
    try:
        yield made
    finally:
        made.image.gate.set()
        made.text.gate.set()
        await made.encoder.close()


@pytest_asyncio.fixture
async def demo(bundle: Path) -> AsyncIterator[Encoder]:
    """The demo model."""
    encoder = await asyncio.to_thread(Encoder.open, Bundle.open(bundle), Limits(), device="cpu")
    yield encoder
    await encoder.close()


class Ticker:
    """Notes how long the event loop stood still at most."""

    def __init__(self) -> None:
        self.longest_seconds = 0.0

    async def run(self) -> None:
        """Tick until cancelled."""
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            self.longest_seconds = max(self.longest_seconds, now - last)
            last = now


@contextlib.asynccontextmanager
async def ticking() -> AsyncIterator[Ticker]:
    """A ticker beside what is done."""
    ticker = Ticker()
    task = asyncio.create_task(ticker.run())
    await asyncio.sleep(0.01)
    ticker.longest_seconds = 0.0
    try:
        yield ticker
    finally:
        task.cancel()


@pytest.fixture
def slow_tokenizer(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A tokenizer that takes 0.3 s for a long text, as hostile ones do, and tells on which thread it ran."""
    threads: list[str] = []
    encode = Tokenizer.encode

    def encode_slowly(self: Tokenizer, text: str) -> Tokens:
        threads.append(threading.current_thread().name)
        if len(text) > 1_000:
            time.sleep(0.3)
        return encode(self, text[:100])

    monkeypatch.setattr(Tokenizer, "encode", encode_slowly)
    return threads


async def test_a_long_text_does_not_hold_up_the_loop(bundle: Path, tmp_path: Path, slow_tokenizer: list[str]) -> None:
    """Preprocessing never costs others their turn (Triton #5082): while one text is tokenized the loop goes on."""
    async with watched(bundle, tmp_path) as made, ticking() as ticker:
        await made.encoder.embed_text("x " * 5_000, NOW)
        assert slow_tokenizer[-1].startswith("tokenizer")
        assert ticker.longest_seconds < 0.2
        await made.encoder.embed_text("short", NOW)
        assert slow_tokenizer[-1] == threading.main_thread().name


async def test_texts_at_their_limit_do_not_hold_up_the_loop(demo: Encoder) -> None:
    """With the real tokenizer, the longest texts that are accepted stop the loop for moments only."""
    texts = ["a" * 10_000, "ab " * 3_333, "\N{GRINNING FACE}" * 10_000, "&amp;" * 2_000]
    async with ticking() as ticker:
        await asyncio.gather(*(demo.embed_text(text, NOW) for text in texts))
    assert ticker.longest_seconds < 0.1


async def test_a_full_queue_is_told_before_anything_is_decoded(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture for which there is no room costs no decoding, and its sender hears of it at once."""
    decoded: list[int] = []

    async def prepare(_pool: DecodePool, data: bytes, _urgency: Urgency, **_options: object) -> Prepared:
        decoded.append(len(data))
        return Prepared(np.zeros((64, 64, 3), np.uint8), None)

    monkeypatch.setattr(DecodePool, "prepare", prepare)
    async with watched(bundle, tmp_path, Limits(queue_length_max=4)) as made:
        made.image.gate.clear()
        inside = [
            asyncio.create_task(made.encoder.embed_image(b"1", Urgency(client=f"{client}"))) for client in range(4)
        ]
        await asyncio.sleep(0.05)
        started = time.perf_counter()
        with pytest.raises(ResourceExhaustedError):
            await made.encoder.embed_image(b"22", Urgency(client="late"))
        assert time.perf_counter() - started < 0.05
        made.image.gate.set()
        await asyncio.gather(*inside)
        assert decoded == [1] * 4


async def test_bytes_in_flight_are_bounded(bundle: Path, tmp_path: Path) -> None:
    """Few huge pictures fill the room as many small ones do (TEI #156, Infinity #517: 40 GB in use)."""
    async with watched(bundle, tmp_path, Limits(bytes_in_flight_max=1_000_000)) as made:
        made.image.gate.clear()
        small = asyncio.create_task(made.encoder.embed_image(jpeg((9, 9, 9)), NOW))
        await asyncio.sleep(0.05)
        with pytest.raises(ResourceExhaustedError, match="bytes"):
            await made.encoder.embed_image(bytes(1_000_000), NOW)
        made.image.gate.set()
        await small


async def test_expired_work_is_never_run(bundle: Path, tmp_path: Path) -> None:
    """Neither text nor picture reaches a tower once its time is over."""
    async with watched(bundle, tmp_path) as made:
        late = Urgency(deadline=time.monotonic() - 0.001)
        for work in (made.encoder.embed_text("late", late), made.encoder.embed_image(jpeg((1, 1, 1)), late)):
            with pytest.raises(DeadlineExceededError):
                await work
        assert made.text.batch_sizes == made.image.batch_sizes == []


async def test_a_text_is_computed_once(bundle: Path, tmp_path: Path) -> None:
    """The second time it comes from the cache, the same read-only vector."""
    async with watched(bundle, tmp_path) as made:
        first = await made.encoder.embed_text("again", NOW)
        assert await made.encoder.embed_text("again", NOW) is first
        assert made.text.batch_sizes == [1]
        assert not first.flags.writeable


async def test_pictures_and_texts_are_computed_at_the_same_time(bundle: Path, tmp_path: Path) -> None:
    """A text is answered while the image tower is at work, and the other way round."""
    async with watched(bundle, tmp_path) as made:
        made.image.gate.clear()
        picture = asyncio.create_task(made.encoder.embed_image(jpeg((5, 5, 5)), NOW))
        await asyncio.wait_for(made.encoder.embed_text("meanwhile", NOW), 10)
        assert not picture.done()
        made.image.gate.set()
        made.text.gate.clear()
        words = asyncio.create_task(made.encoder.embed_text("now held", NOW))
        await asyncio.wait_for(made.encoder.embed_image(jpeg((6, 6, 6)), NOW), 10)
        assert not words.done()


async def test_many_pictures_at_once_do_not_hold_up_the_loop(demo: Encoder) -> None:
    """Decoding and both towers leave the event loop to itself."""
    pictures = [jpeg((number, 9, 9), (1_500, 1_000)) for number in range(40)]
    async with ticking() as ticker:
        await asyncio.gather(*(demo.embed_image(picture, Urgency(bulk=True)) for picture in pictures))
    assert ticker.longest_seconds < 0.2


async def test_what_the_operator_fixed_holds(bundle: Path, tmp_path: Path) -> None:
    """Batch sizes given as options are used, also after refining."""
    settings = EncoderSettings(image_batch_max=3, text_batch_tokens_max=40)
    async with watched(bundle, tmp_path, settings=settings) as made:
        await asyncio.wait_for(made.encoder.refine(), 60)
        assert made.encoder.image_batch_bounds.size_max == 3
        assert made.encoder.text_batch_bounds.units_max == 40


async def test_refining_waits_for_idleness_and_is_kept(bundle: Path, tmp_path: Path) -> None:
    """While anybody waits nothing is measured; then times shorten, batches grow, and the cache knows."""
    async with watched(bundle, tmp_path) as made:
        before = made.encoder.image_batch_bounds.size_max
        made.text.gate.clear()
        waiting = asyncio.create_task(made.encoder.embed_text("somebody", NOW))
        refining = asyncio.create_task(made.encoder.refine())
        await asyncio.sleep(0.6)
        assert made.image.batch_sizes == []
        made.text.gate.set()
        await waiting
        await asyncio.wait_for(refining, 60)
        assert made.encoder.image_batch_bounds.size_max > before
        kept = made.cache.read()
        assert kept == made.encoder.tuning
        assert kept is not None
        assert kept.rounds == 4


async def test_pictures_give_way_to_texts(bundle: Path, tmp_path: Path) -> None:
    """The image tower's thread, and with it those of its session, has a lower priority than the text tower's."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux has priorities of threads")

    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async with watched(bundle, tmp_path) as made:
        assert made.threads.image.submit(nice).result() > made.threads.text.submit(nice).result()


TEXTS = ["a", "a red apple", "a photo of two dogs that play on a wide green meadow in the evening sun", "cat " * 60]


async def test_results_do_not_depend_on_batch_neighbours(demo: Encoder) -> None:
    """Alone or among texts and pictures of any length, an input gets the same vector (openai/CLIP #147)."""
    pictures = [jpeg((number * 37 % 256, number * 91 % 256, number * 151 % 256)) for number in range(12)]
    alone_texts = [await _uncached(demo, text) for text in TEXTS]
    alone_pictures = [await demo.embed_image(picture, NOW) for picture in pictures]
    for _ in range(3):
        together_texts = await asyncio.gather(*(_uncached(demo, text) for text in TEXTS * 4))
        together_pictures = await asyncio.gather(*(demo.embed_image(picture, NOW) for picture in pictures))
        for number, vector in enumerate(together_texts):
            assert np.abs(vector - alone_texts[number % len(TEXTS)]).max() < NEIGHBOUR_NOISE_MAX
        for vector, alone in zip(together_pictures, alone_pictures, strict=True):
            assert np.abs(vector - alone).max() < NEIGHBOUR_NOISE_MAX


async def test_padding_changes_nothing(bundle: Path, demo: Encoder) -> None:
    """A text that a longer neighbour pads, up to the whole context, gets the vector it has alone."""
    tokenizer, tower = Tokenizer.from_bundle(Bundle.open(bundle)), demo._towers.text
    longest = tokenizer.encode("cat " * 100)
    assert len(longest.ids) == demo.manifest.context_length
    for text in TEXTS:
        tokens = tokenizer.encode(text)
        (alone,) = tower.run([tokens])
        padded = tower.run([longest, tokens, longest])[1]
        assert np.abs(padded - alone).max() < NEIGHBOUR_NOISE_MAX


async def _uncached(encoder: Encoder, text: str) -> npt.NDArray[np.float32]:
    encoder.text_cache._vectors.clear()
    return await encoder.embed_text(text, NOW)


async def test_the_second_start_measures_nothing(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first one measured is in the cache; thread counts that an operator fixed are not measured either."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    opened = Bundle.open(bundle)
    first = await asyncio.to_thread(Encoder.open, opened, Limits(), device="cpu")
    await first.close()
    monkeypatch.setattr("clip_search_server.encoder.towers.measure_tower", None)
    second = await asyncio.to_thread(Encoder.open, opened, Limits(), device="cpu")
    assert second.tuning == first.tuning
    await second.close()


async def test_both_towers_have_run_before_the_first_request(bundle: Path, tmp_path: Path) -> None:
    """The first search is no slower than the next (Immich #12559): lazy initialization is over when serving begins."""
    async with watched(bundle, tmp_path) as made:
        await made.encoder.warm_up()
        assert made.text.batch_sizes == made.image.batch_sizes == [1]
