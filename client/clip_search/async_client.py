"""The asyncio client: carries out the calls of `calls.py` without blocking the event loop.

What each call takes, does and gives is told there, with an example. This module knows nothing of it.
"""

import functools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import grpc
from grpc import aio

from clip_search.async_ingest import AsyncIngest
from clip_search.calls import Ask, Calls, Steps
from clip_search.connection import Connection, Target, open_channel
from clip_search.contents import Item
from clip_search.ingest import IngestBounds

__all__ = ["AsyncClient"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _awaited(
    steps: Callable[Concatenate[Calls, _Arguments], Steps[_Result]],
) -> Callable[Concatenate["AsyncClient", _Arguments], Coroutine[Any, Any, _Result]]:
    """Make a call a method to be awaited."""

    @functools.wraps(steps)
    async def method(self: "AsyncClient", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        return await self._run(steps(self._calls, *args, **kwargs))

    return method


def _awaited_pages(
    pages: Callable[Concatenate[Calls, _Arguments], Iterator[Steps[Sequence[_Result]]]],
) -> Callable[Concatenate["AsyncClient", _Arguments], AsyncIterator[_Result]]:
    """Make calls, each of which gives several results, a method to be iterated over."""

    @functools.wraps(pages)
    async def method(
        self: "AsyncClient", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> AsyncIterator[_Result]:
        for steps in pages(self._calls, *args, **kwargs):
            for each in await self._run(steps):
                yield each

    return method


class AsyncClient(Connection):
    """A connection to one server, as `Connection` describes it, for the event loop in which it is made.

    >>> import asyncio
    >>> from clip_search.async_client import AsyncClient
    >>> async def find(*words: str) -> list[str]:
    ...     async with AsyncClient(server, timeout_seconds=10) as client:
    ...         found = await asyncio.gather(*(client.search(word, limit=1) for word in words))
    ...         return [results.hits[0].id for results in found]
    >>> asyncio.run(find("a whale", "a green pear"))
    ['sea/whale', 'fruit/pear']
    """

    def _open(self, target: Target) -> None:
        self._target = target
        self._ingest_channel: grpc.Channel | None = None  # streams have a connection of their own
        if target.credentials is None:
            self._channel = aio.insecure_channel(target.address, target.options)
        else:
            self._channel = aio.secure_channel(target.address, target.credentials, target.options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls that are still open are cancelled."""
        if self._ingest_channel is not None:
            self._ingest_channel.close()
        await self._channel.close()

    search = _awaited(Calls.search)
    classify = _awaited(Calls.classify)
    embed = _awaited(Calls.embed)
    upsert = _awaited(Calls.upsert)
    delete = _awaited(Calls.delete)
    delete_matching = _awaited(Calls.delete_matching)
    snapshot = _awaited(Calls.snapshot)
    get_items = _awaited(Calls.get_items)
    list_items = _awaited(Calls.list_items)
    every_item = _awaited_pages(Calls.every_item)
    thumbnails = _awaited_pages(Calls.thumbnails)
    image = _awaited(Calls.image)
    stats = _awaited(Calls.stats)
    create_collection = _awaited(Calls.create_collection)
    list_collections = _awaited(Calls.list_collections)
    delete_collection = _awaited(Calls.delete_collection)
    set_alias = _awaited(Calls.set_alias)
    remove_alias = _awaited(Calls.remove_alias)
    server_info = _awaited(Calls.server_info)
    health = _awaited(Calls.health)

    def ingest(self, items: Iterable[Item] | AsyncIterable[Item], bounds: IngestBounds | None = None) -> AsyncIngest:
        """Store a stream of items of any length with bounded memory; goes on after a broken connection.

        >>> import asyncio
        >>> from clip_search.async_client import AsyncClient
        >>> from clip_search.contents import Item, Text
        >>> async def store(*names: str) -> list[str]:
        ...     items = (Item(f"shape/{name}", Text(name)) for name in names)
        ...     async with AsyncClient(server) as client, client.ingest(items) as outcomes:
        ...         return sorted([outcome.id async for outcome in outcomes if outcome.error is None])
        >>> asyncio.run(store("square", "circle"))
        ['shape/circle', 'shape/square']

        Args:
            items: what to store, drawn as room permits; from an ordinary iterable in another thread.
            bounds: what may be in flight; by default `IngestBounds` with this client's deadline.

        Returns:
            A context manager to iterate over.
        """
        if self._ingest_channel is None:
            self._ingest_channel = open_channel(self._target)
        return AsyncIngest(functools.partial(self._start_ingest, self._ingest_channel, bounds), items)

    async def _run(self, steps: Steps[_Result]) -> _Result:
        response: Any = None
        while True:
            try:
                ask = steps.send(response)
            except StopIteration as done:
                result: _Result = done.value
                return result
            response = await self._send(ask)

    async def _send(self, ask: Ask) -> Any:  # noqa: ANN401  # the response of the method
        method = self._channel.unary_unary(
            ask.method.path, ask.method.request.SerializeToString, ask.method.response.FromString
        )
        try:
            return await method(ask.request, timeout=self.timeout_seconds, **self._call_options())
        except aio.AioRpcError as error:
            raise self._explain(error) from error
