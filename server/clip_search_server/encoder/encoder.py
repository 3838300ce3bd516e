"""One model at work: bytes and texts in, unit vectors out; knows nothing of gRPC, items or the index.

    picture bytes -> decode threads (pixels.py) -> image batcher -> image tower
    text          -> tokenizer (tokens.py)      -> text batcher  -> text tower

Each stage has threads of its own, so that decoding, the image tower and the text tower overlap, and nothing blocks the
event loop. Embeddings of texts are kept in a small least-recently-used cache.
"""

import asyncio
import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Self

import numpy as np
import numpy.typing as npt

from clip_search_server.bundle import Bundle, Manifest
from clip_search_server.encoder.batching import Batcher, Urgency
from clip_search_server.encoder.pixels import PixelLimits, load_pixels
from clip_search_server.encoder.precision import Precision, PrecisionChoice, choose_precision
from clip_search_server.encoder.sessions import (
    Device,
    DeviceChoice,
    ImageTower,
    OrtImageTower,
    OrtTextTower,
    TextTower,
    choose_device,
)
from clip_search_server.encoder.tokens import Tokenizer, Tokens
from clip_search_server.errors import InvalidArgumentError
from clip_search_server.limits import Limits

__all__ = ["Encoder", "Vector"]

Vector = npt.NDArray[np.float32]

#: Texts whose lengths fall into the same stretch of this many tokens share a batch.
_LENGTH_BUCKET_TOKENS = 8
_IMAGE_BATCH_SIZE_MAX = 8
_TEXT_BATCH_SIZE_MAX = 32
_TEXT_CACHE_LENGTH = 4_096


class Encoder:
    """Embeds pictures and texts with one bundle.

    Make it with `open`; the constructor takes the parts, so that tests can bring towers of their own.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        image_tower: ImageTower,
        text_tower: TextTower,
        limits: Limits,
        *,
        precision: Precision,
        device: Device,
    ) -> None:
        self.manifest = manifest
        self.precision = precision
        self.device = device
        self._limits = limits
        self._tokenizer = tokenizer
        self._decode_threads = ThreadPoolExecutor(os.cpu_count(), "decode")
        self._image_thread = ThreadPoolExecutor(1, "image-tower")
        self._text_thread = ThreadPoolExecutor(1, "text-tower")
        # Enough to keep the towers busy; bulk work beyond it waits here instead of crowding the bounded queues.
        share = max(1, limits.queue_length_max // 4)
        self._bulk_pictures = asyncio.Semaphore(min(4 * _IMAGE_BATCH_SIZE_MAX, share))
        self._bulk_texts = asyncio.Semaphore(min(4 * _TEXT_BATCH_SIZE_MAX, share))
        self._cache: OrderedDict[str, Vector] = OrderedDict()
        self._images = Batcher[npt.NDArray[np.uint8], Vector](
            lambda pixels: list(image_tower.run(np.stack(pixels))),
            self._image_thread,
            name="image",
            batch_size_max=_IMAGE_BATCH_SIZE_MAX,
            queue_length_max=limits.queue_length_max,
        )
        self._texts = Batcher[Tokens, Vector](
            lambda texts: list(text_tower.run(texts)),
            self._text_thread,
            name="text",
            batch_size_max=_TEXT_BATCH_SIZE_MAX,
            queue_length_max=limits.queue_length_max,
            group=lambda tokens: -(-len(tokens.ids) // _LENGTH_BUCKET_TOKENS),
        )

    @classmethod
    def open(
        cls, bundle: Bundle, limits: Limits, *, device: DeviceChoice = "auto", precision: PrecisionChoice = "float"
    ) -> Self:
        """Load a bundle's towers.

        Raises:
            BundleError: a graph or the tokenizer cannot be loaded.
            FailedPreconditionError: the wanted device cannot be used, or the bundle lacks the wanted precision.
        """
        chosen = choose_device(device)
        variant = choose_precision(bundle.manifest.variants, precision, chosen)
        return cls(
            bundle.manifest,
            Tokenizer.from_bundle(bundle),
            OrtImageTower(bundle, variant.name, chosen),
            OrtTextTower(bundle, variant.name, chosen),
            limits,
            precision=variant,
            device=chosen,
        )

    @property
    def dim(self) -> int:
        """Length of every vector."""
        return self.manifest.embedding_dim

    @property
    def space_id(self) -> str:
        """What makes vectors comparable."""
        return self.manifest.space_id

    async def embed_text(self, text: str, urgency: Urgency) -> Vector:
        """Return the unit vector (dim,) of a text, read-only.

        Raises:
            InvalidArgumentError: the field `text` is too long.
            ResourceExhaustedError, DeadlineExceededError, UnavailableError: see `Batcher.submit`.
        """
        if len(text) > self._limits.text_chars_max:
            raise InvalidArgumentError(
                "text", f"has {len(text):,} characters; at most {self._limits.text_chars_max:,} are accepted."
            )
        if (cached := self._cache.get(text)) is not None:
            self._cache.move_to_end(text)
            return cached
        async with self._bulk_texts if urgency.bulk else nullcontext():
            # A copy, because a row of the batch would keep the whole batch alive in the cache.
            vector = (await self._texts.submit(self._tokenizer.encode(text), urgency)).copy()
        vector.setflags(write=False)
        self._cache[text] = vector
        if len(self._cache) > _TEXT_CACHE_LENGTH:
            self._cache.popitem(last=False)
        return vector

    async def embed_image(self, data: bytes, urgency: Urgency) -> Vector:
        """Return the unit vector (dim,) of an encoded picture.

        Raises:
            InvalidArgumentError: the field `image` is no acceptable picture.
            ResourceExhaustedError, DeadlineExceededError, UnavailableError: see `Batcher.submit`.
        """
        bounds = PixelLimits(self._limits.image_bytes_max, self._limits.image_pixels_max)
        async with self._bulk_pictures if urgency.bulk else nullcontext():
            pixels = await asyncio.get_running_loop().run_in_executor(
                self._decode_threads, load_pixels, data, self.manifest.image_preprocessing, bounds
            )
            return await self._images.submit(pixels, urgency)

    async def warm_up(self) -> None:
        """Run both towers once, so that the first request does not pay for lazy initialization."""
        size = self.manifest.image_preprocessing.size
        await self._texts.submit(self._tokenizer.encode("warm-up"), Urgency())
        await self._images.submit(np.zeros((size, size, 3), np.uint8), Urgency())

    async def close(self) -> None:
        """Finish queued work and stop the threads."""
        await self._images.close()
        await self._texts.close()
        for threads in (self._decode_threads, self._image_thread, self._text_thread):
            threads.shutdown()
