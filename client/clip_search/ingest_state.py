"""Where the items of a stream are: waiting to be sent, in flight, answered; knows nothing of waiting, threads or calls.

Items without an answer are kept, so that they can be sent again, in their order, in a stream that takes the place of a
broken one. Of the same id at most one is in flight: else the earlier of two, sent again after the later one was
answered, would win over it.
"""

from collections import deque
from dataclasses import dataclass

from clip_search.conversion import outcome_of
from clip_search.errors import ConnectionLostError, UnexpectedStatusError
from clip_search.results import ItemOutcome
from clip_search.v1 import index_pb2, item_pb2

__all__ = ["IngestBounds", "IngestState"]


@dataclass(frozen=True, slots=True)
class IngestBounds:
    """What bounds a stream.

    Args:
        items_in_flight_max: items sent and not yet answered.
        bytes_in_flight_max: bytes of these items together; a single item may be larger, and then travels alone.
        idle_seconds_max: how long the server may take to answer anything while items are in flight.
    """

    items_in_flight_max: int = 64
    bytes_in_flight_max: int = 64 * 1024 * 1024
    idle_seconds_max: float = 30.0


class IngestState:
    """The items of one ingest, over all the streams that carry it. Not safe for threads.

    Attributes:
        finished: nothing more will be admitted.

    Args:
        bounds: what may be in flight.
        collection: which collection to store in.
        model: which model embeds.
    """

    def __init__(self, bounds: IngestBounds, collection: str, model: str) -> None:
        self.finished = False
        self._bounds = bounds
        self._collection = collection
        self._model = model
        self._next_index = 0
        self._in_flight: dict[int, index_pb2.IngestRequest] = {}  # in order of the index
        self._ids: set[str] = set()
        self._bytes = 0
        self._unsent: deque[index_pb2.IngestRequest] = deque()

    @property
    def in_flight(self) -> int:
        """How many items are drawn and not answered."""
        return len(self._in_flight)

    @property
    def has_unsent(self) -> bool:
        """Whether the stream has something to send."""
        return bool(self._unsent)

    def has_room_for(self, item: item_pb2.Item) -> bool:
        """Tell whether an item may be admitted now."""
        if not self._in_flight:
            return True
        fits = self._bytes + item.ByteSize() <= self._bounds.bytes_in_flight_max
        return fits and len(self._in_flight) < self._bounds.items_in_flight_max and item.id not in self._ids

    def admit(self, item: item_pb2.Item) -> None:
        """Count an item in; it is the next to be sent."""
        index = self._next_index
        self._next_index += 1
        request = index_pb2.IngestRequest(collection=self._collection, model=self._model, index=index, item=item)
        self._in_flight[index] = request
        self._ids.add(item.id)
        self._bytes += item.ByteSize()
        self._unsent.append(request)

    def begin_stream(self) -> None:
        """Let a new stream carry everything that has no answer."""
        self._unsent = deque(self._in_flight.values())

    def next_request(self) -> index_pb2.IngestRequest | None:
        """Give what the stream has to send next; None where nothing waits."""
        return self._unsent.popleft() if self._unsent else None

    def settle(self, response: index_pb2.IngestResponse) -> ItemOutcome:
        """Count an answered item out, and give what became of it.

        Raises:
            UnexpectedStatusError: no such item is in flight.
        """
        outcome = outcome_of(response.result)
        request = self._in_flight.pop(outcome.index, None)
        if request is None:
            message = f"the server answered item {outcome.index}, which was not in flight. This is a bug of the server."
            raise UnexpectedStatusError(message, code="INTERNAL")
        self._ids.discard(request.item.id)
        self._bytes -= request.item.ByteSize()
        return outcome

    def check_end(self) -> None:
        """Look for what is missing when a stream ended without an error.

        Raises:
            ConnectionLostError: items are unanswered, or not even drawn.
        """
        if self._in_flight:
            raise ConnectionLostError(f"the server ended the stream with {self.in_flight} items unanswered")
        if not self.finished:
            raise ConnectionLostError("the server ended the stream before all items were sent")
