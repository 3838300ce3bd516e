"""Embeds a content once, however often and under however many ids it is sent; knows nothing of items and gRPC.

A content is known by its digest. Asked in turn: what is being embedded at this moment, what was embedded lately (and
may not be committed yet), what the collection holds. Whoever comes while it is being embedded waits for that. If then
nothing came of it because *its* caller went away or ran out of time, the next in line begins anew; if the content
itself is bad, it is bad for all.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from clip_search_server.encoder.encoder import EmbeddedPicture, Vector
from clip_search_server.errors import InvalidArgumentError
from clip_search_server.observation import Counter

__all__ = ["Repeats"]

#: More than wait for their commit at a time, over all streams, so that each is found here until it is found there.
_RECENT_MAX = 2_048


@dataclass(slots=True)
class _Flight:
    """One content being embedded."""

    landed: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: InvalidArgumentError | None = None


class Repeats:
    """What was embedded for one collection.

    Args:
        find_stored: returns the vector of a digest, float32 (dim,), None where nothing with it is stored.

    Attributes:
        recognized: contents that were answered without embedding them.
        embedded: those that were embedded.
    """

    def __init__(self, find_stored: Callable[[bytes], Awaitable[Vector | None]]) -> None:
        self._find_stored = find_stored
        self.recognized, self.embedded = Counter(), Counter()
        self._flights: dict[bytes, _Flight] = {}
        self._recent: OrderedDict[bytes, EmbeddedPicture] = OrderedDict()

    async def embed_once(self, digest: bytes, embed: Callable[[], Awaitable[EmbeddedPicture]]) -> EmbeddedPicture:
        """Return what the content of this digest was embedded to; `embed` is called where that is not known.

        Of a content that is only found in the collection, the thumbnail is None.

        Raises:
            Exception: what `embed` raised.
        """
        while (flight := self._flights.get(digest)) is not None:
            await flight.landed.wait()
            if flight.refusal is not None:
                raise flight.refusal
        if (known := self._recent.get(digest)) is not None:
            self._recent.move_to_end(digest)
            self.recognized.add()
            return known
        flight = self._flights[digest] = _Flight()
        try:
            stored = await self._find_stored(digest)
            made = await embed() if stored is None else EmbeddedPicture(stored, None)
        except InvalidArgumentError as error:
            flight.refusal = error
            raise
        finally:
            del self._flights[digest]
            flight.landed.set()
        (self.embedded if stored is None else self.recognized).add()
        self._remember(digest, made)
        return made

    def _remember(self, digest: bytes, made: EmbeddedPicture) -> None:
        self._recent[digest] = made
        if len(self._recent) > _RECENT_MAX:
            self._recent.popitem(last=False)
