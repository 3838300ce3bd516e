"""The blocking index made awaitable; knows nothing of models and of gRPC.

Reads and writes have threads of their own, so that a slow disk never holds up a search.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from clip_search_server.encoder.encoder import Vector
from clip_search_server.errors import ClipSearchError, NotFoundError, ResourceExhaustedError, UnavailableError
from clip_search_server.index import (
    Collection,
    CollectionStats,
    DeleteOutcome,
    Filter,
    Found,
    Generation,
    KeptImages,
    KeptImagesStats,
    Record,
    Search,
    StoredItem,
    UpsertOutcome,
    WriteFigures,
)
from clip_search_server.search.repeats import Repeats
from clip_search_server.spans import Stage

__all__ = ["AsyncCollection"]

P = ParamSpec("P")
R = TypeVar("R")

_TURN_SECONDS = 0.5


class AsyncCollection:
    """One collection of the index, called from the event loop.

    Every method waits for the method of the same name of `clip_search_server.index.Collection` on
    another thread, and raises what that raises.
    """

    def __init__(
        self,
        name: str,
        index: Collection,
        *,
        images: KeptImages | None = None,
        read_threads: int = 4,
        write_threads: int = 4,
    ) -> None:
        self.name = name
        self._index = index
        self._images = images
        self._readers = ThreadPoolExecutor(read_threads, f"{name}-read")
        # Several, because the index joins writes that come together into one commit.
        self._writers = ThreadPoolExecutor(write_threads, f"{name}-write")
        # Apart from the writers, so that deletes and snapshots go on while upserts wait for room.
        self._throttled = ThreadPoolExecutor(1, f"{name}-throttled")
        self._end: ClipSearchError | None = None
        self.repeats = Repeats(self.vector_of_content)

    @property
    def dim(self) -> int:
        """Length of every vector."""
        return self._index.dim

    @property
    def space_id(self) -> str:
        """The space that the vectors belong to."""
        return self._index.space_id

    @property
    def write_figures(self) -> WriteFigures:
        """How writes went since it was opened."""
        return self._index.figures

    @property
    def item_count(self) -> int:
        """Items that can be found."""
        return self._index.item_count

    @property
    def write_failure(self) -> str | None:
        """Why writes are refused since the disk failed, None where they are not."""
        return self._index.write_failure

    @property
    def throttle_seconds_max(self) -> float:
        """Longest that a request which has stored nothing yet should wait for room."""
        return self._index.throttle_seconds_max

    @property
    def sequence(self) -> int:
        """Number of the newest acknowledged write."""
        return self._index.sequence

    @property
    def keeps_images(self) -> bool:
        """Whether records are to bring the pictures that they were made from."""
        return self._images is not None and self._images.is_keeping

    @property
    def kept_images(self) -> KeptImagesStats | None:
        """What pictures are kept; None where there are none and none will be."""
        return None if self._images is None else self._images.stats()

    async def upsert(self, records: Sequence[Record], *, patience_seconds: float) -> UpsertOutcome:
        """Store records; durable once it returns.

        Args:
            records: what to store.
            patience_seconds: how long to wait where items arrive faster than they can be indexed; may be infinite.

        Raises:
            ResourceExhaustedError: the wait was in vain; nothing was written.
        """
        patient_until = time.monotonic() + patience_seconds
        while True:
            try:
                return await self._on("write", self._writers, self._upsert, records)
            except ResourceExhaustedError:
                patience_seconds = patient_until - time.monotonic()
                if patience_seconds <= 0:
                    raise
            # In short turns, so that a caller who has given up, or a shutdown, soon frees the thread.
            await self._on(
                "wait for room", self._throttled, self._index.wait_for_room, min(patience_seconds, _TURN_SECONDS)
            )

    async def delete(self, ids: Sequence[str]) -> DeleteOutcome:
        """Delete items; durable once it returns."""
        return await self._on("write", self._writers, self._delete, ids)

    async def delete_matching(self, filter_: Filter) -> DeleteOutcome:
        """Delete every item that the filter allows; durable once it returns."""
        return await self._on("write", self._writers, self._delete_matching, filter_)

    async def get(self, ids: Sequence[str]) -> list[StoredItem | None]:
        """Read items."""
        return await self._on("read", self._readers, self._index.get, ids)

    async def thumbnails(self, ids: Sequence[str]) -> list[bytes | None]:
        """Read thumbnails: `b""` for an item without, None where there is no item."""
        return await self._on("read", self._readers, self._index.thumbnails, ids)

    async def vector_of_content(self, digest: bytes) -> Vector | None:
        """Read the vector of an item whose content has this digest, None where there is none."""
        return await self._on("read", self._readers, self._index.vector_of_content, digest)

    async def image(self, item_id: str) -> bytes:
        """Read the picture that an item was made from.

        Raises:
            NotFoundError: there is no such item, or no picture of it is kept.
        """
        return await self._on("read", self._readers, self._image, item_id)

    async def list_items(self, *, after: str, limit: int, filter_: Filter | None = None) -> list[StoredItem]:
        """Read the items that follow `after` in byte order of ids, only those that the filter allows."""
        return await self._on("read", self._readers, self._index.list_items, after=after, limit=limit, filter_=filter_)

    async def find(self, search: Search) -> Found:
        """Find items and read them, both of one moment."""
        return await self._on("search", self._readers, self._index.find, search)

    def expect_queries(self, queries: Vector) -> None:
        """Say which queries are likely, float32 (queries, dim) of unit length; see `RecentQueries`."""
        self._index.expect_queries(queries)

    async def stats(self) -> CollectionStats:
        """Measure the collection."""
        return await self._on("read", self._readers, self._index.stats)

    def stats_now(self) -> CollectionStats:
        """Measure the collection on the calling thread, which is not the event loop's."""
        return self._index.stats()

    async def snapshot(self) -> Generation:
        """Publish a generation."""
        return await self._on("snapshot", self._writers, self._index.snapshot)

    async def close(self, *, deleted: bool = False) -> None:
        """Finish what runs and release the folder; later calls get UnavailableError, or NotFoundError if `deleted`."""
        self._end = (
            NotFoundError(f"collection: {self.name!r} has been deleted.")
            if deleted
            else UnavailableError(f"collection {self.name!r} is closed; the server is stopping.")
        )
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._throttled.shutdown()
        self._writers.shutdown()
        self._readers.shutdown()
        if self._images is not None:
            self._images.close()
        self._index.close()

    def _upsert(self, records: Sequence[Record]) -> UpsertOutcome:
        if self._images is None:
            return self._index.upsert(records, patience_seconds=0.0)
        if not self._index.wait_for_room(0.0):  # Before pictures are written in vain.
            raise ResourceExhaustedError(
                "items arrive faster than they can be indexed; send them more slowly",
                retry_after_seconds=self.throttle_seconds_max,
            )
        with self._images.keeping(records):
            return self._index.upsert(records, patience_seconds=0.0)

    def _delete(self, ids: Sequence[str]) -> DeleteOutcome:
        outcome = self._index.delete(ids)
        if self._images is not None:
            self._images.forget(ids)
        return outcome

    def _delete_matching(self, filter_: Filter) -> DeleteOutcome:
        outcome = self._index.delete_matching(filter_)
        if self._images is not None and outcome.deleted:
            self._images.sweep_soon()
        return outcome

    def _image(self, item_id: str) -> bytes:
        (digest,) = self._index.digests([item_id])
        if digest is None:
            raise NotFoundError(f"id: no item has the id {item_id!r}.")
        image = None if self._images is None else self._images.get(digest)
        if image is None:
            raise NotFoundError(
                f"id: no picture of {item_id!r} is kept: it was made from a text or a vector, or stored while the "
                "server was running without --keep-images or had used it up."
            )
        return image

    async def _on(
        self, stage: str, pool: ThreadPoolExecutor, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        if self._end is not None:
            raise self._end
        with Stage(stage, collection=self.name):
            context = contextvars.copy_context()  # so that what is logged there carries the request's id
            return await asyncio.get_running_loop().run_in_executor(
                pool, lambda: context.run(function, *args, **kwargs)
            )
