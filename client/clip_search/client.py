"""The synchronous client: carries out the calls of `calls.py` one after the other, for use from any number of threads.

What each call takes, does and gives is told there, with an example. This module knows nothing of it.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import grpc

from clip_search.calls import Ask, Calls, Ranking, Steps
from clip_search.connection import Connection, Target, open_channel
from clip_search.contents import Item
from clip_search.defaults import MESSAGE_BYTES_MAX
from clip_search.ingest import Ingest, IngestBounds

__all__ = ["MESSAGE_BYTES_MAX", "Client", "Ranking"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _blocking(
    steps: Callable[Concatenate[Calls, _Arguments], Steps[_Result]],
) -> Callable[Concatenate["Client", _Arguments], _Result]:
    """Make a call a method that returns its result."""

    @functools.wraps(steps)
    def method(self: "Client", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        return self._run(steps(self._calls, *args, **kwargs))

    return method


def _blocking_pages(
    pages: Callable[Concatenate[Calls, _Arguments], Iterator[Steps[Sequence[_Result]]]],
) -> Callable[Concatenate["Client", _Arguments], Iterator[_Result]]:
    """Make calls, each of which gives several results, a method that gives one after the other."""

    @functools.wraps(pages)
    def method(self: "Client", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Iterator[_Result]:
        for steps in pages(self._calls, *args, **kwargs):
            yield from self._run(steps)

    return method


class Client(Connection):
    """A connection to one server, for use from any number of threads, as `Connection` describes it.

    >>> from clip_search.client import Client
    >>> with Client(server, timeout_seconds=10) as client:
    ...     hits = client.search("a whale", limit=1).hits
    >>> [hit.id for hit in hits]
    ['sea/whale']
    """

    def _open(self, target: Target) -> None:
        self._channel = open_channel(target)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls that are still open are cancelled."""
        self._channel.close()

    search = _blocking(Calls.search)
    classify = _blocking(Calls.classify)
    embed = _blocking(Calls.embed)
    upsert = _blocking(Calls.upsert)
    delete = _blocking(Calls.delete)
    delete_matching = _blocking(Calls.delete_matching)
    snapshot = _blocking(Calls.snapshot)
    get_items = _blocking(Calls.get_items)
    list_items = _blocking(Calls.list_items)
    every_item = _blocking_pages(Calls.every_item)
    thumbnails = _blocking_pages(Calls.thumbnails)
    image = _blocking(Calls.image)
    stats = _blocking(Calls.stats)
    create_collection = _blocking(Calls.create_collection)
    list_collections = _blocking(Calls.list_collections)
    delete_collection = _blocking(Calls.delete_collection)
    set_alias = _blocking(Calls.set_alias)
    remove_alias = _blocking(Calls.remove_alias)
    server_info = _blocking(Calls.server_info)
    health = _blocking(Calls.health)

    def ingest(self, items: Iterable[Item], bounds: IngestBounds | None = None) -> Ingest:
        """Store a stream of items of any length with bounded memory; goes on after a broken connection.

        >>> from clip_search.contents import Item, Text
        >>> colours = (Item(f"colour/{name}", Text(name)) for name in ("red", "green", "blue"))
        >>> with client.ingest(colours) as outcomes:
        ...     print(sorted(outcome.id for outcome in outcomes if outcome.error is None))
        ['colour/blue', 'colour/green', 'colour/red']

        Args:
            items: what to store; drawn in another thread, as room permits.
            bounds: what may be in flight; by default `IngestBounds` with this client's deadline.

        Returns:
            A context manager to iterate over.
        """
        return self._start_ingest(self._channel, bounds, items)

    def _run(self, steps: Steps[_Result]) -> _Result:
        response: Any = None
        while True:
            try:
                ask = steps.send(response)
            except StopIteration as done:
                result: _Result = done.value
                return result
            response = self._send(ask)

    def _send(self, ask: Ask) -> Any:  # noqa: ANN401  # the response of the method
        method = self._channel.unary_unary(
            ask.method.path, ask.method.request.SerializeToString, ask.method.response.FromString
        )
        try:
            return method(ask.request, timeout=self.timeout_seconds, **self._call_options())
        except grpc.RpcError as error:
            raise self._explain(error) from error
