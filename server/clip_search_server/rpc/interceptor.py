"""What happens around every method: a request id, error mapping, a log line; knows nothing of the methods themselves.

A client may send its own id as the metadata `x-request-id`; either way the answer's trailers carry it.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
from grpc import aio
from grpc_status import rpc_status

from clip_search_server.errors import ClipSearchError
from clip_search_server.rpc.errors import internal_status, status_of, trailers_of

__all__ = ["RequestInterceptor"]

_LOG = logging.getLogger(__name__)
_ID_KEY = "x-request-id"
_ID_CHARS_MAX = 64

_Context = aio.ServicerContext[Any, Any]


class RequestInterceptor(aio.ServerInterceptor):
    """Wraps the handlers of all methods, and knows how many calls of the API are open."""

    def __init__(self) -> None:
        self._open_calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_until_idle(self) -> None:
        """Return once no call of the API is open."""
        await self._idle.wait()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._open_calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._open_calls -= 1
            if not self._open_calls:
                self._idle.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - grpc's own type
        """Return the method's handler inside the wrapper that fits its kind."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith("/grpc."):
            return handler
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._wrap_unary(method, handler.unary_unary), handler.request_deserializer, handler.response_serializer
            )
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(
                self._wrap_stream(method, handler.stream_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        raise RuntimeError(f"{method} is of a kind that no wrapper is written for. This is a bug.")

    def _wrap_unary(
        self, method: str, behaviour: Callable[[Any, _Context], Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        async def wrapped(request: object, context: _Context) -> Any:  # noqa: ANN401 - any response
            with self._counted():
                call = _Call(method, context)
                try:
                    response = await behaviour(request, context)
                except Exception as error:  # noqa: BLE001 - mapped, and logged when unforeseen
                    await call.fail(error)
                call.log("OK")
                return response

        return wrapped

    def _wrap_stream(self, method: str, behaviour: Callable[[Any, _Context], AsyncIterator[Any]]) -> Callable[..., Any]:
        async def wrapped(requests: object, context: _Context) -> AsyncIterator[Any]:
            with self._counted():
                call = _Call(method, context)
                try:
                    async for response in behaviour(requests, context):
                        yield response
                except Exception as error:  # noqa: BLE001 - mapped, and logged when unforeseen
                    await call.fail(error)
                call.log("OK")

        return wrapped


class _Call:
    """One call: its id, its clock and its end."""

    def __init__(self, method: str, context: _Context) -> None:
        metadata = dict(context.invocation_metadata() or ())
        sent = metadata.get(_ID_KEY, "")
        usable = isinstance(sent, str) and sent.isprintable() and 0 < len(sent) <= _ID_CHARS_MAX
        self._id = str(sent) if usable else secrets.token_hex(8)
        self._method, self._context = method, context
        self._started = time.monotonic()
        context.set_trailing_metadata(((_ID_KEY, self._id),))

    async def fail(self, error: Exception) -> None:
        """End the call with the status for `error`; never returns."""
        if isinstance(error, aio.AbortError):
            raise error
        if isinstance(error, ClipSearchError):
            status, trailers = status_of(error), trailers_of(error)
            self.log(f"{type(error).__name__}: {error}")
        else:
            status, trailers = internal_status(self._id), ()
            _LOG.error("%s request=%s failed unforeseen", self._method, self._id, exc_info=error)
        rich = rpc_status.to_status(status)
        metadata = ((_ID_KEY, self._id), *trailers, *rich.trailing_metadata)
        await self._context.abort(rich.code, rich.details, metadata)

    def log(self, outcome: str) -> None:
        """Write the call's line; requests are traffic, so the level is DEBUG."""
        milliseconds = (time.monotonic() - self._started) * 1000
        _LOG.debug("%s request=%s %.1f ms %s", self._method, self._id, milliseconds, outcome)
