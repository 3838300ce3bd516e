"""Small pictures of items: asked of the server a whole page at a time, and kept until newer ones take their room.

When a page of hits is found, its pictures are ordered at once, in one call, while the browser still reads the answer;
it then asks for them one by one. What is kept under a version belongs to that version: the pictures are read between
two readings of the items, and those of items that changed in between are not kept.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from clip_search.client import Client
from clip_search.errors import ClipSearchError, UnimplementedError
from clip_search.results import StoredItem
from clip_search_gallery.answers import version_of
from clip_search_gallery.calls import Calls

__all__ = ["Shelf"]

#: What an empty entry is counted as, so that those are bounded too.
_ENTRY_BYTES = 256


class Shelf:
    """The pictures, the last used ones.

    Args:
        calls: the way to the server.
        collection: whose items' pictures.
        bytes_max: how many bytes are kept.
    """

    def __init__(self, calls: Calls, collection: str, bytes_max: int = 64 * 1024 * 1024) -> None:
        self._calls = calls
        self._collection = collection
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._coming: dict[str, asyncio.Task[None]] = {}

    def order(self, items: Iterable[StoredItem]) -> None:
        """Fetch the pictures of items that are not kept or on their way."""
        wanted = {version_of(self._collection, item): item.id for item in items}
        self._order({version: wanted[version] for version in wanted if version not in self._kept})

    async def get(self, version: str, item_id: str) -> bytes | None:
        """Give a picture; empty where the item has none, None where there is no such item of this version.

        Raises:
            ClipSearchError: it could not be fetched.
        """
        if version not in self._kept:
            self._order({version: item_id})
            await asyncio.shield(self._coming[version])  # others wait for the same
        picture = self._kept.get(version)
        if picture is not None:
            self._kept.move_to_end(version)
        return picture

    def _order(self, wanted: Mapping[str, str]) -> None:
        wanted = {version: wanted[version] for version in wanted if version not in self._coming}
        if not wanted:
            return
        task = asyncio.create_task(self._fetch(wanted))
        self._coming |= dict.fromkeys(wanted, task)
        task.add_done_callback(lambda done: self._arrived(done, wanted))

    def _arrived(self, task: asyncio.Task[None], wanted: Iterable[str]) -> None:
        for version in wanted:
            self._coming.pop(version, None)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, ClipSearchError):
            raise error  # a defect; the loop's handler reports it

    async def _fetch(self, wanted: Mapping[str, str]) -> None:
        found = await self._calls.run(lambda client: _read(client, self._collection, list(wanted.values())))
        for version in wanted:
            if version in found:
                self._keep(version, found[version])

    def _keep(self, version: str, picture: bytes) -> None:
        if version in self._kept:
            return
        self._kept[version] = picture
        self._bytes += len(picture) + _ENTRY_BYTES
        while self._bytes > self._bytes_max and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= len(dropped) + _ENTRY_BYTES


def _read(client: Client, collection: str, ids: list[str]) -> dict[str, bytes]:
    """Read pictures, then the items that they are of; the items were read before too, for their versions."""
    try:
        pictures = {thumbnail.id: thumbnail.data for thumbnail in client.thumbnails(ids)}
    except UnimplementedError:
        pictures = {}
    items = client.get_items(ids).items
    return {version_of(collection, item): pictures.get(item.id, b"") for item in items}
