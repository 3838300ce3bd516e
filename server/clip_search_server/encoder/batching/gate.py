"""Room for so many things and bytes at a time; who waits is let in by turns of clients; knows nothing of the things."""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator

from clip_search_server.encoder.batching.urgency import Urgency
from clip_search_server.errors import DeadlineExceededError
from clip_search_server.spans import Stage

__all__ = ["Gate"]


class Gate:
    """Lets work in as far as there is room, and lets the rest wait.

    Clients that wait take turns, so one with a thousand things does not hold up another with one. A thing that is
    larger than all room comes in when it is alone, and nothing overtakes it meanwhile.
    """

    def __init__(self, *, items_max: int, bytes_max: int) -> None:
        """Start empty.

        Args:
            items_max: things inside at a time.
            bytes_max: bytes of them together.
        """
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._items = 0
        self._bytes = 0
        self._waiting: OrderedDict[str, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()

    @property
    def items(self) -> int:
        """How many things are inside."""
        return self._items

    @property
    def bytes(self) -> int:
        """How many bytes are inside."""
        return self._bytes

    @contextlib.asynccontextmanager
    async def room(self, size_bytes: int, urgency: Urgency) -> AsyncIterator[None]:
        """Hold room for one thing of `size_bytes`, waiting for it no longer than the deadline.

        Raises:
            DeadlineExceededError: there was no room in time.
        """
        await self.enter(size_bytes, urgency)
        try:
            yield
        finally:
            self.leave(size_bytes)

    async def enter(self, size_bytes: int, urgency: Urgency) -> None:
        """Take room; `leave` with the same size gives it back.

        Raises:
            DeadlineExceededError: there was no room in time.
        """
        urgency.check()
        if not self._waiting and self._has_room(size_bytes):
            self._take(size_bytes)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(urgency.client, deque()).append((size_bytes, turn))
        try:
            with Stage("wait for room"):
                async with asyncio.timeout_at(urgency.deadline):
                    await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave(size_bytes)  # Let in at the very moment it gave up.
            else:
                turn.cancel()
                self._let_in()  # It may have been what the others waited behind.
            if isinstance(error, TimeoutError):
                raise DeadlineExceededError("The deadline passed while the request waited for its turn.") from error
            raise

    def leave(self, size_bytes: int) -> None:
        """Give back the room that `enter` took."""
        self._items -= 1
        self._bytes -= size_bytes
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            client, line = next(iter(self._waiting.items()))
            while line and line[0][1].done():
                line.popleft()
            if not line:
                del self._waiting[client]
                continue
            size_bytes, turn = line[0]
            if not self._has_room(size_bytes):
                return
            line.popleft()
            self._waiting.move_to_end(client)
            self._take(size_bytes)
            turn.set_result(None)

    def _has_room(self, size_bytes: int) -> bool:
        if not self._items:
            return True
        return self._items < self._items_max and self._bytes + size_bytes <= self._bytes_max

    def _take(self, size_bytes: int) -> None:
        self._items += 1
        self._bytes += size_bytes
