"""Entries that wait for a batch, of one urgency; clients take turns; knows nothing of how batches are formed."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from clip_search_server.encoder.batching.urgency import Urgency
from clip_search_server.spans import CURRENT_SPAN, Span

__all__ = ["Entry", "Line"]

Input = TypeVar("Input")
Output = TypeVar("Output")


@dataclass(slots=True, eq=False)
class Entry(Generic[Input, Output]):
    """One input and whoever waits for its output."""

    input: Input
    length: int
    """Units of work, see `bounds.py`."""
    urgency: Urgency
    future: "asyncio.Future[Output]"
    queued_at: float = field(default_factory=time.monotonic)
    taken: bool = False
    span: Span | None = field(default_factory=CURRENT_SPAN.get)
    """What it is a part of; None where that is not traced."""

    @property
    def waits(self) -> bool:
        """Whether it is neither in a batch nor given up."""
        return not self.taken and not self.future.done()

    def fail(self, error: BaseException) -> None:
        """Give the error to whoever waits."""
        if not self.future.done():
            self.future.set_exception(error)


class Line(Generic[Input, Output]):
    """A queue for each client; the clients are served in a circle."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Entry[Input, Output]]] = OrderedDict()

    def append(self, entry: Entry[Input, Output]) -> None:
        """Put an entry behind those of its client."""
        self._clients.setdefault(entry.urgency.client, deque()).append(entry)

    def in_turn(self) -> Iterator[Entry[Input, Output]]:
        """Yield what waits: the oldest of each client, then the second oldest of each, and so on."""
        rows = [iter(tuple(entries)) for entries in self._clients.values()]
        while rows:
            left = []
            for row in rows:
                entry = next((entry for entry in row if entry.waits), None)
                if entry is not None:
                    left.append(row)
                    yield entry
            rows = left

    def settle(self, served: Iterable[Entry[Input, Output]]) -> None:
        """Let the clients that were served go to the end of the circle, and forget what waits no more."""
        for entry in served:
            if entry.urgency.client in self._clients:
                self._clients.move_to_end(entry.urgency.client)
        for client in list(self._clients):
            entries = self._clients[client]
            while entries and not entries[0].waits:
                entries.popleft()
            if not entries:
                del self._clients[client]

    def oldest_queued_at(self) -> float | None:
        """Return when the entry that has waited longest came, None where none waits."""
        heads = [entries[0].queued_at for entries in self._clients.values() if entries]
        return min(heads, default=None)

    def drain(self) -> list[Entry[Input, Output]]:
        """Take out everything that waits."""
        left = list(self.in_turn())
        self._clients.clear()
        return left
