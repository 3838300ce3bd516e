"""One model at work: bytes and texts in, unit vectors out; knows nothing of gRPC, items or the index.

    picture bytes -> door -> decode threads (decode_pool.py) -> image batcher -> image tower
    text          -> door -> tokenizer (tokens.py)           -> text batcher  -> text tower

A door bounds what is inside, in inputs and bytes, before anything is spent on it. Each stage has threads of its own, so
that decoding, the image tower and the text tower overlap, and nothing blocks the event loop. The image tower's threads
give way to all others: pictures come in bulk, and a person's words are answered first where the processor is short.
Embeddings of texts are kept in a small least-recently-used cache.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from clip_search_server.bundle import Bundle, Manifest
from clip_search_server.encoder.batching import BatchBounds, Batcher, Door, DoorBounds, Urgency
from clip_search_server.encoder.decode_pool import DecodePool
from clip_search_server.encoder.figures import BatchFigures, DecodeFigures
from clip_search_server.encoder.pixels import PixelLimits
from clip_search_server.encoder.precision import Precision, PrecisionChoice, choose_precision
from clip_search_server.encoder.sessions import Device, DeviceChoice, choose_device
from clip_search_server.encoder.text_cache import TextCache
from clip_search_server.encoder.thumbnails import ThumbnailSettings
from clip_search_server.encoder.tokens import Tokenizer, Tokens
from clip_search_server.encoder.towers import EncoderSettings, Towers, image_probe, open_towers, text_probe
from clip_search_server.encoder.tuning.measure import Probe, measure_shapes
from clip_search_server.encoder.tuning.timings import BATCH_SECONDS_LONGEST, Timing, TowerTuning, Tuning
from clip_search_server.errors import InvalidArgumentError
from clip_search_server.limits import Limits
from clip_search_server.priority import stand_back
from clip_search_server.spans import CURRENT_SPAN

__all__ = ["REFINING_ROUNDS", "EmbeddedPicture", "Encoder", "EncoderThreads", "Vector"]

Vector = npt.NDArray[np.float32]

#: Longer texts are tokenized on a thread: they take milliseconds, in which the event loop would stand still.
_CHARS_ON_LOOP_MAX = 256
#: Bulk inputs inside at a time, and batches of them: enough to keep decoding and the tower busy.
_BULK_ITEMS_MIN: Final = 16
_BULK_BATCHES: Final = 4
REFINING_ROUNDS: Final = 3
"""How often each batch shape is measured again after a start; whatever disturbed it once may be gone the next time."""
_IDLE_CHECK_SECONDS: Final = 0.25
_IMAGE_NICENESS: Final = 5
"""How far the image tower stands back: to about a quarter of the processor where others want all of it."""


@dataclass(frozen=True, slots=True)
class EncoderThreads:
    """The threads of one encoder; each tower's sessions are opened and run on its own."""

    image: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, "image-tower", stand_back, (_IMAGE_NICENESS,))
    )
    text: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "text-tower"))
    tokenizer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "tokenizer"))

    def shutdown(self) -> None:
        """End them once they are done."""
        for threads in (self.image, self.text, self.tokenizer):
            threads.shutdown()


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedPicture:
    """A picture's unit vector (dim,), and its thumbnail: WebP, empty where none is small enough, None if not made."""

    vector: Vector
    thumbnail: bytes | None


class Encoder:
    """Embeds pictures and texts with one bundle.

    Make it with `open`; the constructor takes the parts, so that tests can bring towers of their own.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        towers: Towers,
        limits: Limits,
        *,
        precision: Precision,
        device: Device,
        threads: EncoderThreads,
        settings: EncoderSettings | None = None,
        thumbnails: ThumbnailSettings | None = None,
        name: str = "default",
    ) -> None:
        self.manifest = manifest
        self.precision = precision
        self.device = device
        self.tuning = towers.tuning
        self._limits = limits
        self._settings = settings or EncoderSettings()
        self._tokenizer = tokenizer
        self._towers = towers
        self._decoding = DecodePool(
            manifest.image_preprocessing,
            PixelLimits(limits.image_bytes_max, limits.image_pixels_max),
            thumbnails=thumbnails,
        )
        self._threads = threads
        self.text_cache = TextCache()
        size = manifest.image_preprocessing.size
        self._pixel_bytes = size * size * 3
        self._images = Batcher[npt.NDArray[np.uint8], Vector](
            lambda pixels: list(towers.image.run(np.stack(pixels))),
            threads.image,
            name="image",
            bounds=BatchBounds(1, 1),
            model=name,
        )
        self._texts = Batcher[Tokens, Vector](
            lambda texts: list(towers.text.run(texts)),
            threads.text,
            name="text",
            bounds=BatchBounds(1, manifest.context_length),
            model=name,
            length=lambda tokens: len(tokens.ids),
        )
        self._follow(towers.tuning)
        self._image_door = self._door("image", self._images, self._images.bounds.units_max)
        self._text_door = self._door("text", self._texts, self._texts.bounds.size_max)

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        limits: Limits,
        *,
        device: DeviceChoice = "auto",
        precision: PrecisionChoice = "float",
        settings: EncoderSettings | None = None,
        thumbnails: ThumbnailSettings | None = None,
        name: str = "default",
    ) -> Self:
        """Load a bundle's towers; where they were never run on this machine, find out what batches suit them.

        `thumbnails` says how thumbnails are made, None that they are not; `name` is what the operator calls the model.

        Raises:
            BundleError: a graph or the tokenizer cannot be loaded.
            FailedPreconditionError: the wanted device cannot be used, or the bundle lacks the wanted precision.
        """
        chosen = choose_device(device)
        variant = choose_precision(bundle.manifest.variants, precision, chosen)
        settings = settings or EncoderSettings()
        tokenizer = Tokenizer.from_bundle(bundle)
        threads = EncoderThreads()
        try:
            towers = open_towers(
                bundle, variant.name, chosen, settings, image_thread=threads.image, text_thread=threads.text
            )
        except BaseException:
            threads.shutdown()
            raise
        return cls(
            bundle.manifest,
            tokenizer,
            towers,
            limits,
            precision=variant,
            device=chosen,
            threads=threads,
            settings=settings,
            thumbnails=thumbnails,
            name=name,
        )

    @property
    def dim(self) -> int:
        """Length of every vector."""
        return self.manifest.embedding_dim

    @property
    def space_id(self) -> str:
        """What makes vectors comparable."""
        return self.manifest.space_id

    @property
    def image_batch_bounds(self) -> BatchBounds:
        """The largest batch of pictures at present."""
        return self._images.bounds

    @property
    def text_batch_bounds(self) -> BatchBounds:
        """The largest batch of texts at present, in tokens."""
        return self._texts.bounds

    @property
    def doors(self) -> Mapping[str, Door]:
        """What bounds the inputs inside, by tower."""
        return {"image": self._image_door, "text": self._text_door}

    @property
    def batch_figures(self) -> Mapping[str, BatchFigures]:
        """What batches there were, by tower."""
        return {"image": self._images.figures, "text": self._texts.figures}

    @property
    def decode_figures(self) -> DecodeFigures:
        """How decoding went."""
        return self._decoding.figures

    @property
    def makes_thumbnails(self) -> bool:
        """Whether thumbnails can be asked for."""
        return self._decoding.makes_thumbnails

    async def embed_text(self, text: str, urgency: Urgency) -> Vector:
        """Return the unit vector (dim,) of a text, read-only.

        Raises:
            InvalidArgumentError: the field `text` is too long.
            ResourceExhaustedError, DeadlineExceededError, UnavailableError: see `Door.admitted`.
        """
        if len(text) > self._limits.text_chars_max:
            raise InvalidArgumentError(
                "text", f"has {len(text):,} characters; at most {self._limits.text_chars_max:,} are accepted."
            )
        if (cached := self.text_cache.get(text)) is not None:
            if (span := CURRENT_SPAN.get()) is not None:
                span.note(text_cached=True)  # Else one would look for its batch in vain.
            return cached
        async with self._text_door.admitted(len(text), urgency):
            tokens = await self._tokenize(text)
            return self.text_cache.put(text, await self._texts.submit(tokens, urgency))

    async def embed_image(self, data: bytes, urgency: Urgency) -> Vector:
        """Return the unit vector (dim,) of an encoded picture; errors as of `embed_picture`."""
        return (await self.embed_picture(data, urgency)).vector

    async def embed_picture(self, data: bytes, urgency: Urgency, *, thumbnail: bool = False) -> EmbeddedPicture:
        """Return the unit vector of an encoded picture and, if wanted and thumbnails are made, its thumbnail.

        Raises:
            InvalidArgumentError: the field `image` is no acceptable picture.
            ResourceExhaustedError, DeadlineExceededError, UnavailableError: see `Door.admitted`.
        """
        async with self._image_door.admitted(len(data) + self._pixel_bytes, urgency):
            prepared = await self._decoding.prepare(data, urgency, thumbnail=thumbnail)
            return EmbeddedPicture(await self._images.submit(prepared.pixels, urgency), prepared.thumbnail)

    async def make_thumbnail(self, data: bytes, urgency: Urgency) -> bytes | None:
        """Return the thumbnail of an encoded picture without embedding it, None where thumbnails are not made.

        Raises:
            InvalidArgumentError, ResourceExhaustedError, DeadlineExceededError: as of `embed_picture`.
        """
        if not self.makes_thumbnails:
            return None
        async with self._image_door.admitted(len(data) + self._pixel_bytes, urgency):
            return (await self._decoding.prepare(data, urgency, thumbnail=True)).thumbnail

    async def warm_up(self) -> None:
        """Run both towers once, so that the first request does not pay for lazy initialization."""
        size = self.manifest.image_preprocessing.size
        await self._texts.submit(self._tokenizer.encode("warm-up"), Urgency())
        await self._images.submit(np.zeros((size, size, 3), np.uint8), Urgency())

    async def refine(self) -> None:
        """Measure batches a few times more while there is nothing else to do, and keep the shortest times."""
        size = self.manifest.image_preprocessing.size
        images, texts = image_probe(self._towers.image, size), text_probe(self._towers.text)
        for _round in range(REFINING_ROUNDS):
            image = await self._measured_again(self.tuning.image, images, self._threads.image)
            text = await self._measured_again(self.tuning.text, texts, self._threads.text)
            self.tuning = Tuning(image, text, self.tuning.rounds + 1)
            self._follow(self.tuning)
            await asyncio.to_thread(self._towers.cache.write, self.tuning)

    async def close(self) -> None:
        """Finish queued work and stop the threads."""
        await self._images.close()
        await self._texts.close()
        self._decoding.close()
        self._threads.shutdown()

    def _follow(self, tuning: Tuning) -> None:
        """Form batches as large as `tuning` says, or as the operator does."""
        images, texts = tuning.image.bounds(), tuning.text.bounds()
        pictures = self._settings.image_batch_max or min(images.units_max, images.size_max)
        tokens = self._settings.text_batch_tokens_max or texts.units_max
        self._images.bounds = BatchBounds(pictures, pictures)
        self._texts.bounds = BatchBounds(texts.size_max, tokens, min(tokens, texts.padding_max))
        self._images.pace, self._texts.pace = tuning.image.pace(), tuning.text.pace()

    def _door(self, name: str, batcher: Batcher[Any, Vector], batch_size: int) -> Door:
        limits = self._limits
        # A part of the whole, so that bulk work takes no room from people; what is beyond it waits outside.
        bulk_items = min(max(_BULK_ITEMS_MIN, _BULK_BATCHES * batch_size), max(1, limits.queue_length_max // 4))
        bounds = DoorBounds(
            items_max=limits.queue_length_max,
            bytes_max=limits.bytes_in_flight_max,
            bulk_items_max=bulk_items,
            bulk_bytes_max=max(1, limits.bytes_in_flight_max // 4),
            backlog_min=min(bulk_items, batch_size, limits.queue_length_max // 2),
            queue_seconds_max=limits.queue_seconds_max,
        )
        return Door(bounds, name=name, batch_seconds=lambda: batcher.pace.seconds(batcher.bounds.units_max))

    async def _tokenize(self, text: str) -> Tokens:
        if len(text) <= _CHARS_ON_LOOP_MAX:
            return self._tokenizer.encode(text)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads.tokenizer, self._tokenizer.encode, text)

    async def _measured_again(self, tower: TowerTuning, probe: Probe, thread: ThreadPoolExecutor) -> TowerTuning:
        """Return the tuning of a tower with its batches timed once more, each when nobody waits for anything."""
        timings: list[Timing] = []
        for timing in tower.timings:
            if timing.seconds > BATCH_SECONDS_LONGEST and timing is not tower.timings[0]:
                continue
            await asyncio.sleep(_IDLE_CHECK_SECONDS)
            while not (self._images.idle and self._texts.idle):  # noqa: ASYNC110 - comes and goes
                await asyncio.sleep(_IDLE_CHECK_SECONDS)
            timings += await asyncio.get_running_loop().run_in_executor(
                thread, lambda shapes: list(measure_shapes(probe, shapes)), [(timing.inputs, timing.length)]
            )
        return tower.refined(timings)
