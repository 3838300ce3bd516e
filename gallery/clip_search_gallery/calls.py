"""Calls to the server from an event loop: each on a thread of its own, a bounded number at a time.

A connection that failed is replaced, because gRPC waits ever longer before it tries one again, while people want to see
a server that was started a second ago. Calls that are still under way keep the connection they began on. Knows nothing
of HTTP.
"""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from clip_search.client import Client
from clip_search.errors import UnreachableError
from clip_search.results import Limits, ServerInfo

__all__ = ["Calls", "UnwantedError"]

_T = TypeVar("_T")
_RENEWAL_SECONDS = 0.5


class UnwantedError(Exception):
    """Nobody waits for the answer any more, so nothing was asked."""


class _Connection:
    """A client, and how many calls use it; closed after the last of them once it is retired."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._calls = 0
        self._is_retired = False

    def __enter__(self) -> Client:
        self._calls += 1
        return self.client

    def __exit__(self, *_: object) -> None:
        self._calls -= 1
        self._close_if_over()

    def retire(self) -> None:
        """Take no further calls; those under way end first."""
        self._is_retired = True
        self._close_if_over()

    def _close_if_over(self) -> None:
        if self._is_retired and self._calls == 0:
            self.client.close()


class Calls:
    """The way to one server.

    Args:
        connect: makes a client; nothing is sent by that.
        calls_max: how many calls may be under way at a time; further ones wait.
    """

    def __init__(self, connect: Callable[[], Client], calls_max: int = 16) -> None:
        self._connect = connect
        self._connection = _Connection(connect())
        self._renewed_at = time.monotonic()
        self._places = CapacityLimiter(calls_max)
        self._threads = CapacityLimiter(calls_max)
        self._info: ServerInfo | None = None

    @property
    def server(self) -> str:
        """The server's address."""
        return self._connection.client.server

    async def run(self, call: Callable[[Client], _T], is_unwanted: Callable[[], Awaitable[bool]] | None = None) -> _T:
        """Do what `call` does with the client, off the event loop.

        Args:
            call: what to do.
            is_unwanted: asked once there is a place for the call.

        Raises:
            ClipSearchError: what the client raises.
            UnwantedError: it was not done, because nobody waits for it.
        """
        async with self._places:
            if is_unwanted is not None and await is_unwanted():
                raise UnwantedError
            connection = self._connection
            with connection as client:
                try:
                    return await to_thread.run_sync(call, client, limiter=self._threads)
                except UnreachableError:
                    self._renew(connection)
                    raise

    async def info(self) -> ServerInfo:
        """Tell what the server is; asked once a connection."""
        if self._info is None:
            self._info = await self.run(Client.server_info)
        return self._info

    async def limits(self) -> Limits:
        """Tell what the server takes."""
        return (await self.info()).limits

    def forget(self) -> None:
        """Ask anew what the server is: it was away, and may have come back as another."""
        self._info = None

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._connection.client.close()

    def _renew(self, failed: _Connection) -> None:
        """Connect anew, unless that was done since or a moment ago."""
        self.forget()
        if self._connection is failed and time.monotonic() - self._renewed_at >= _RENEWAL_SECONDS:
            self._connection = _Connection(self._connect())
            self._renewed_at = time.monotonic()
            failed.retire()
