"""Who may come in to be embedded, and who is refused at once; knows nothing of towers.

    people      are refused where there is no room for them, or no hope of an answer before their deadline
    bulk work   waits, because whoever sends it is held back by that; clients take turns (`Gate`)

Bulk work has room of its own, a part of the whole, so it never takes that of people. Of people's room a client may hold
three times what is free: alone three quarters of it, and the more clients there are, the less each. So there is always
room for somebody new (dynamic thresholds; Choudhury and Hahne, 1998).
"""

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from clip_search_server.encoder.batching.drain import DrainRate
from clip_search_server.encoder.batching.gate import Gate
from clip_search_server.encoder.batching.urgency import Urgency
from clip_search_server.errors import DeadlineExceededError, ResourceExhaustedError

__all__ = ["Door", "DoorBounds"]

_SHARE_OF_FREE = 3
_SAFETY = 1.15


@dataclass(frozen=True, slots=True)
class DoorBounds:
    """How much may be inside: waiting, being prepared and being run.

    Args:
        items_max: inputs that people wait for.
        bytes_max: bytes of them together; a single one may be larger, and then is alone.
        bulk_items_max: inputs of bulk work.
        bulk_bytes_max: bytes of them together.
        backlog_min: inputs inside beyond which some certainly wait for a batch, so that departures tell the rate.
        queue_seconds_max: how long a person may have to wait, whatever the deadline.
    """

    items_max: int
    bytes_max: int
    bulk_items_max: int
    bulk_bytes_max: int
    backlog_min: int
    queue_seconds_max: float = math.inf


class Door:
    """Keeps what is inside within bounds."""

    def __init__(self, bounds: DoorBounds, *, name: str, batch_seconds: Callable[[], float] = lambda: 0.0) -> None:
        """Start with nobody inside.

        Args:
            bounds: how much may be inside.
            name: what is embedded behind it, for messages.
            batch_seconds: how long a full batch takes as things are: what the last one in still has to wait for.
        """
        self._bounds = bounds
        self._name = name
        self._batch_seconds = batch_seconds
        self._bulk = Gate(items_max=bounds.bulk_items_max, bytes_max=bounds.bulk_bytes_max)
        self._people: Counter[str] = Counter()
        self._items = 0
        self._bytes = 0
        self._drain = DrainRate(backlog_min=bounds.backlog_min)

    @property
    def items(self) -> int:
        """How many inputs are inside."""
        return self._items + self._bulk.items

    @property
    def bytes(self) -> int:
        """How many bytes are inside."""
        return self._bytes + self._bulk.bytes

    @contextlib.asynccontextmanager
    async def admitted(self, size_bytes: int, urgency: Urgency) -> AsyncIterator[None]:
        """Stay inside with an input of `size_bytes`.

        Raises:
            ResourceExhaustedError: there is no room, or the deadline could not be met; says when to come back.
            DeadlineExceededError: it has passed, or bulk work found no room before it.
        """
        if urgency.bulk:
            async with self._bulk.room(size_bytes, urgency):
                with self._drained():
                    yield
            return
        urgency.check()
        self._refuse_what_cannot_be_done(size_bytes, urgency)
        self._items += 1
        self._bytes += size_bytes
        self._people[urgency.client] += 1
        try:
            with self._drained():
                yield
        finally:
            self._items -= 1
            self._bytes -= size_bytes
            self._people[urgency.client] -= 1
            if not self._people[urgency.client]:
                del self._people[urgency.client]

    @contextlib.contextmanager
    def _drained(self) -> Iterator[None]:
        self._drain.enter()
        finished = True
        try:
            yield
        except (asyncio.CancelledError, DeadlineExceededError):
            finished = False  # Nothing was done for it, so it says nothing of how fast things are done.
            raise
        finally:
            self._drain.leave(finished=finished)

    def _refuse_what_cannot_be_done(self, size_bytes: int, urgency: Urgency) -> None:
        own = self._people[urgency.client]
        free = self._bounds.items_max - self._items
        if own >= _SHARE_OF_FREE * free:
            self._refuse(f"The {self._name} queue is full ({self._items} entries, {own} of them yours).", 1 + own // 2)
        if self._items and self._bytes + size_bytes > self._bounds.bytes_max:
            held = f"{self._bytes:,} bytes wait and {self._bounds.bytes_max:,} may"
            self._refuse(f"The {self._name} queue is full ({held}).", 1 + self._items // 2)
        ahead = sum(min(count, own + 1) for count in self._people.values())
        queue_seconds = self._drain.seconds_for(ahead)
        # Besides the queue it waits for the batch that runs when its turn comes, and for its own. What is done for
        # somebody who has given up by then is lost, so the estimate is on the safe side.
        expected_seconds = _SAFETY * queue_seconds + 2 * self._batch_seconds()
        late_seconds = expected_seconds - min(urgency.remaining_seconds(), self._bounds.queue_seconds_max)
        if queue_seconds and late_seconds > 0:
            self._refuse(
                f"The {self._name} queue is too long ({queue_seconds:.2f} s) for the deadline or queue_seconds_max.",
                round(ahead * min(1.0, late_seconds / queue_seconds)),
            )

    def _refuse(self, message: str, ahead: int) -> None:
        raise ResourceExhaustedError(message, retry_after_seconds=self._drain.pushback_seconds(ahead))
