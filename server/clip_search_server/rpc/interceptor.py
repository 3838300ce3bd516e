"""What happens around every method: access, bounds, an id, errors, figures, a trace, a log line; knows no method.

A client may send its own id as the metadata `x-request-id`; either way the answer's trailers carry it. Methods of
gRPC's own services, health above all, are let in and then left alone: they are answered however much there is to do.

Log lines hold nothing of what callers sent but the field that was wrong: ids, texts and names are theirs.
"""

import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2
from grpc import aio
from grpc_status import rpc_status

from clip_search_server.errors import (
    AlreadyExistsError,
    ClipSearchError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from clip_search_server.logs import REQUEST_ID
from clip_search_server.rpc.errors import internal_status, status_of, trailers_of
from clip_search_server.rpc.guard import Access, Guard
from clip_search_server.rpc.open_calls import OpenCalls, when_call_is_over
from clip_search_server.spans import CURRENT_SPAN, CallSpan, Tracer
from clip_search_server.telemetry.calls import CallFigures

__all__ = ["RequestInterceptor"]

_LOG = logging.getLogger(__name__)
_ID_KEY = "x-request-id"
_ID_CHARS_MAX = 64
_PARENT_KEY = "traceparent"
#: What of a field's path is the API's own: keys of maps are callers' words.
_OWN_WORDS = re.compile(r"([a-z_.]|\[[0-9]+\]){0,100}")
#: Errors whose messages quote the request.
_OF_THE_CALLER = (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)

_OK, _CANCELLED = "OK", "CANCELLED"
_name_of = code_pb2.Code.Name

_Context = aio.ServicerContext[Any, Any]


class RequestInterceptor(aio.ServerInterceptor):
    """Wraps the handlers of all methods of the API."""

    def __init__(self, calls: OpenCalls, guard: Guard, figures: CallFigures, tracer: Tracer | None = None) -> None:
        self._calls = calls
        self._guard = guard
        self._figures = figures
        self._tracer = tracer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - grpc's own type
        """Return the method's handler inside the wrapper that fits its kind."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return handler
        access: Access | None = None
        try:
            access = self._guard.admit(method, handler_call_details.invocation_metadata)
            if method.startswith("/grpc."):
                return handler
            self._calls.check()
        except ClipSearchError as error:
            # As a stream, whatever the method is: then the refusal is sent without waiting for the caller's message.
            # Strangers' calls are not traced, or they could fill the collector.
            tracer = None if access is None else self._tracer
            return grpc.stream_stream_rpc_method_handler(self._refusal(method, error, tracer))
        if handler.unary_unary:
            # Messages are parsed and written in the wrapper, which so knows how many bytes they have.
            behaviour = self._wrap_unary(
                method, access, handler.unary_unary, handler.request_deserializer, handler.response_serializer
            )
            return grpc.unary_unary_rpc_method_handler(behaviour)
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(
                self._wrap_stream(method, access, handler.stream_stream, handler.request_deserializer),
                None,
                handler.response_serializer,
            )
        raise RuntimeError(f"{method} is of a kind that no wrapper is written for. This is a bug.")

    def _wrap_unary(
        self,
        method: str,
        access: Access,
        behaviour: Callable[[Any, _Context], Awaitable[Any]],
        parse: Callable[[bytes], Any],
        serialize: Callable[[Any], bytes],
    ) -> Callable[..., Awaitable[bytes]]:
        async def wrapped(data: bytes, context: _Context) -> bytes:
            call = _Call(method, context, self._guard, self._figures, access)
            call.trace(self._tracer)
            try:
                self._calls.enter()
                with self._calls.holding(len(data)):
                    request = _parsed(data, parse)
                    access.check(request)
                    response = serialize(access.shown(await behaviour(request, context)))
                    self._calls.check_answer(len(response))
            except Exception as error:  # noqa: BLE001 - mapped, and logged when unforeseen
                await call.fail(error)
            call.succeed()
            return response

        return wrapped

    def _wrap_stream(
        self,
        method: str,
        access: Access,
        behaviour: Callable[[Any, _Context], AsyncIterator[Any]],
        parse: Callable[[bytes], Any],
    ) -> Callable[..., Any]:
        async def wrapped(requests: AsyncIterator[bytes], context: _Context) -> AsyncIterator[Any]:
            call = _Call(method, context, self._guard, self._figures, access)
            call.is_stream()
            call.trace(self._tracer, is_stream=True)
            try:
                self._calls.enter()
                with access.while_valid() as key:
                    async for response in behaviour(access.checked(_all_parsed(requests, parse)), context):
                        with key.sending():
                            yield response
            except Exception as error:  # noqa: BLE001 - mapped, and logged when unforeseen
                await call.fail(error)
            call.succeed()

        return wrapped

    def _refusal(self, method: str, error: ClipSearchError, tracer: Tracer | None) -> Callable[..., Awaitable[None]]:
        async def refuse(_requests: object, context: _Context) -> None:
            call = _Call(method, context, self._guard, self._figures)
            call.trace(tracer)
            await call.fail(error)

        return refuse


def _described(error: ClipSearchError) -> str:
    """Return an error in words of our own."""
    kind = type(error).__name__
    if isinstance(error, InvalidArgumentError):
        match = _OWN_WORDS.match(error.field)
        return f"{kind} at {match[0] if match else ''}"
    return kind if isinstance(error, _OF_THE_CALLER) else f"{kind}: {error}"


def _parsed(data: bytes, parse: Callable[[bytes], Any]) -> Any:  # noqa: ANN401 - any request
    try:
        return parse(data)
    except DecodeError as error:
        raise InvalidArgumentError("", "The request's bytes are no message of this method.") from error


async def _all_parsed(requests: AsyncIterator[bytes], parse: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    async for data in requests:
        yield _parsed(data, parse)


class _Call:
    """One call: its id, its clock and its end."""

    def __init__(
        self, method: str, context: _Context, guard: Guard, figures: CallFigures, access: Access | None = None
    ) -> None:
        metadata = dict(context.invocation_metadata() or ())
        sent = metadata.get(_ID_KEY, "")
        usable = isinstance(sent, str) and sent.isprintable() and 0 < len(sent) <= _ID_CHARS_MAX
        self._id = str(sent) if usable else secrets.token_hex(8)
        self._parent = metadata.get(_PARENT_KEY)
        self._span: CallSpan | None = None
        self._method, self._context, self._guard, self._access = method, context, guard, access
        self._figures = figures
        self._started = time.monotonic()
        self._code = _CANCELLED
        when_call_is_over(self._note)
        REQUEST_ID.set(self._id)  # The task is the call's own, and so is its context.
        context.set_trailing_metadata(((_ID_KEY, self._id),))

    def trace(self, tracer: Tracer | None, *, is_stream: bool = False) -> None:
        """Trace it from here to its end, where a tracer is given and decides so."""
        if tracer is None:
            return
        start = tracer.stream if is_stream else tracer.call
        self._span = start(self._method, self._parent, self._id)
        CURRENT_SPAN.set(self._span)

    def is_stream(self) -> None:
        """Count it among the open streams until its end."""
        self._figures.open_streams += 1
        when_call_is_over(self._leave_streams)

    async def fail(self, error: Exception) -> None:
        """End the call with the status for `error`; never returns."""
        if isinstance(error, aio.AbortError):
            raise error
        if isinstance(error, ClipSearchError):
            self._guard.note(self._context.peer(), self._method, error)
            told = error if self._access is None else self._access.told(error)
            status, trailers = status_of(told), trailers_of(told)
            self._code = _name_of(status.code)
            self.log(_described(error))
        else:
            status, trailers = internal_status(self._id), ()
            self._code = _name_of(status.code)
            _LOG.error("%s failed unforeseen", self._method, exc_info=error, extra={"method": self._method})
        rich = rpc_status.to_status(status)
        metadata = ((_ID_KEY, self._id), *trailers, *rich.trailing_metadata)
        await self._context.abort(rich.code, rich.details, metadata)

    def succeed(self) -> None:
        """End the call well."""
        self._code = _OK
        self.log(_OK)

    def _note(self) -> None:
        self._figures.note(self._method, self._code, time.monotonic() - self._started)
        if self._span is not None:
            self._span.finish(self._code)

    def _leave_streams(self) -> None:
        self._figures.open_streams -= 1

    def log(self, outcome: str) -> None:
        """Write the call's line; requests are traffic, so the level is DEBUG."""
        if not _LOG.isEnabledFor(logging.DEBUG):
            return
        milliseconds = round((time.monotonic() - self._started) * 1000, 1)
        fields = {"method": self._method, "code": self._code, "milliseconds": milliseconds}
        _LOG.debug("%s %.1f ms %s", self._method, milliseconds, outcome, extra=fields)
