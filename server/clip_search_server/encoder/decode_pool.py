"""Prepares pictures for the image tower on threads of its own; knows nothing of towers, batches and who may come in.

The memory of decoding is bounded: pictures that need much take turns, whatever else goes on beside them. Bulk work is
handed to the threads as they become free, so that a person's picture never waits behind more of it than is being
decoded already. Work whose caller has gone away, or whose deadline has passed, is not begun.
"""

import asyncio
import contextvars
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from clip_search_server.bundle import ImagePreprocessing
from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.decoding import OpenedPicture
from clip_search_server.encoder.figures import DecodeFigures
from clip_search_server.encoder.pixels import PixelLimits, open_for_model, scale
from clip_search_server.encoder.thumbnails import ThumbnailSettings, make_thumbnail
from clip_search_server.errors import DeadlineExceededError, InvalidArgumentError
from clip_search_server.spans import Span, Stage

__all__ = ["DecodePool", "Prepared"]

T = TypeVar("T")

_LARGE_BYTES = 128 * 2**20
"""A picture that needs more than this to decode waits until no other such picture is being decoded."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A picture as the tower reads it, uint8 (size, size, 3), and its thumbnail if one was asked for."""

    pixels: npt.NDArray[np.uint8]
    thumbnail: bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class _Done(Generic[T]):
    """What came of a step, when a thread began with it, and how long that took."""

    result: T
    begun_at: float
    seconds: float


class DecodePool:
    """Decodes pictures for one model.

    Args:
        preprocessing: of the model.
        limits: the largest picture.
        thumbnails: how they are made; None if they never are.
        threads: by default one a core.
        large_bytes: memory for decoding above which pictures take turns.
    """

    def __init__(
        self,
        preprocessing: ImagePreprocessing,
        limits: PixelLimits,
        *,
        thumbnails: ThumbnailSettings | None = None,
        threads: int | None = None,
        large_bytes: int = _LARGE_BYTES,
    ) -> None:
        threads = threads or len(os.sched_getaffinity(0))
        self._preprocessing = preprocessing
        self._limits = limits
        self._thumbnails = thumbnails
        self._large_bytes = large_bytes
        self.figures = DecodeFigures()
        self._threads = ThreadPoolExecutor(threads, "decode")
        self._bulk = asyncio.Semaphore(threads + 1)  # One is at hand when a thread becomes free.
        self._large = asyncio.Semaphore(1)

    @property
    def makes_thumbnails(self) -> bool:
        """Whether thumbnails can be asked for."""
        return self._thumbnails is not None

    async def prepare(self, data: bytes, urgency: Urgency, *, thumbnail: bool = False) -> Prepared:
        """Decode a picture, scale it for the model and, if wanted and the server makes them, make its thumbnail.

        Raises:
            InvalidArgumentError: the field `image` is no acceptable picture.
            DeadlineExceededError: the deadline passed before a thread was free.
        """
        with Stage("decode", bytes=len(data)) as span:
            return await self._prepare(data, urgency, self._thumbnails if thumbnail else None, span)

    async def _prepare(
        self, data: bytes, urgency: Urgency, settings: ThumbnailSettings | None, span: Span | None
    ) -> Prepared:
        came_at = time.monotonic()
        try:
            async with self._bulk if urgency.bulk else nullcontext():
                begun = await self._run(lambda: self._begin(data, settings), urgency)
                waited = begun.begun_at - came_at
                self.figures.wait_seconds.observe(waited)
                if span is not None:
                    span.note(wait_seconds=waited)
                if isinstance(begun.result, Prepared):
                    self.figures.run_seconds.observe(begun.seconds)
                    return begun.result
                opened = begun.result
                async with self._large:
                    finished = await self._run(lambda: self._finish(opened, settings), urgency)
        except InvalidArgumentError:
            self.figures.refused.add()
            raise
        self.figures.run_seconds.observe(begun.seconds + finished.seconds)
        return finished.result

    def close(self) -> None:
        """Finish what is being decoded and stop the threads."""
        self._threads.shutdown()

    async def _run(self, work: Callable[[], T], urgency: Urgency) -> _Done[T]:
        def begin() -> _Done[T]:
            begun_at = time.monotonic()
            if urgency.deadline is not None and urgency.deadline <= begun_at:
                raise DeadlineExceededError("The deadline passed while the picture waited to be decoded.")
            result = work()
            return _Done(result, begun_at, time.monotonic() - begun_at)

        context = contextvars.copy_context()  # so that what is logged there carries the request's id
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, begin)

    def _begin(self, data: bytes, thumbnail: ThumbnailSettings | None) -> Prepared | OpenedPicture:
        """Prepare a picture, unless it is large: then return it opened."""
        opened = open_for_model(data, self._preprocessing, self._limits)
        return opened if opened.decoding_bytes > self._large_bytes else self._finish(opened, thumbnail)

    def _finish(self, opened: OpenedPicture, thumbnail: ThumbnailSettings | None) -> Prepared:
        decoded = opened.decode()
        small = None if thumbnail is None else make_thumbnail(decoded, thumbnail)
        return Prepared(scale(decoded, self._preprocessing), small)
