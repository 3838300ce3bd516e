"""Spans of `spans.py` as OpenTelemetry's; imported only where traces are asked for; knows nothing of gRPC.

Whether a call is traced is decided when it comes: as its caller decided, who says so in `traceparent` (W3C Trace
Context, https://www.w3.org/TR/trace-context/), else for a random share of calls. That is the specification's sampler
`ParentBased(TraceIdRatioBased)`, asked once a call and without making a span first, which would cost every call some
microseconds. All spans that are then started are kept. `tracestate` is not read: it is free text of the caller, and
nothing here calls on to others.

A call may have `_PARTS_MAX` spans below its own, so that one with a thousand labels cannot fill the queue.
"""

import itertools
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan
from opentelemetry.trace import Tracer as SdkTracer

from clip_search_server.spans import CallSpan, Note, Span

__all__ = ["RequestTracer"]

_PARTS_MAX: Final = 64
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_FIRST_VERSION = "00"
#: Statuses that are the server's failures, not its callers' (OpenTelemetry, semantic conventions for gRPC servers).
_FAILURES = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class RequestTracer:
    """Starts the traces of calls.

    Args:
        provider: makes the spans; its sampler keeps all of them.
        ratio: share of the calls to trace whose callers do not say.
        close: sends what is left, waiting no longer than the seconds it is given.
        roll: returns a random number of [0, 1).
    """

    def __init__(
        self,
        provider: TracerProvider,
        ratio: float,
        close: Callable[[float], None],
        *,
        roll: Callable[[], float] = random.random,
    ) -> None:
        self._tracer = provider.get_tracer("clip_search_server")
        self._ratio = ratio
        self._close = close
        self._roll = roll

    def call(self, method: str, parent: object, request_id: str) -> CallSpan | None:
        """See `spans.Tracer`."""
        caller = _caller_of(parent)
        if not self._is_wanted(caller):
            return None
        context = Context() if caller is None else set_span_in_context(NonRecordingSpan(caller), Context())
        span = self._tracer.start_span(
            method.removeprefix("/"), context, SpanKind.SERVER, _call_attributes(method, request_id)
        )
        return _CallSpan(span, _Trace(self._tracer)) if span.is_recording() else None

    def stream(self, method: str, parent: object, request_id: str) -> CallSpan | None:
        """See `spans.Tracer`."""
        caller = _caller_of(parent)
        if caller is not None and not caller.trace_flags.sampled:
            return None
        return _Stream(self, method, caller, request_id)

    def item(self, name: str, method: str, caller: SpanContext | None, request_id: str) -> Span | None:
        """Start the trace of one item of a stream, linked to the stream's caller; None where it is not to be traced."""
        if not self._is_wanted(caller):
            return None
        links = [] if caller is None else [Link(caller)]
        span = self._tracer.start_span(
            f"{method.removeprefix('/')} {name}",
            Context(),
            SpanKind.INTERNAL,
            _call_attributes(method, request_id),
            links,
        )
        return _Recorded(span, _Trace(self._tracer)) if span.is_recording() else None

    def close(self, seconds_max: float) -> None:
        """See `spans.Tracer`."""
        self._close(seconds_max)

    def _is_wanted(self, caller: SpanContext | None) -> bool:
        return self._roll() < self._ratio if caller is None else caller.trace_flags.sampled


def _caller_of(parent: object) -> SpanContext | None:
    """Return the caller's span, None where there is none or what was sent is no `traceparent`."""
    match = _TRACEPARENT.fullmatch(parent) if isinstance(parent, str) else None
    if match is None or (match[1] == _FIRST_VERSION and match[5]):
        return None
    caller = SpanContext(
        int(match[2], 16), int(match[3], 16), is_remote=True, trace_flags=TraceFlags(int(match[4], 16))
    )
    return caller if caller.is_valid else None


def _call_attributes(method: str, request_id: str) -> dict[str, Note]:
    return {"rpc.system.name": "grpc", "rpc.method": method.removeprefix("/"), "clip_search.request_id": request_id}


def _named(notes: Mapping[str, Note]) -> dict[str, Note]:
    return {f"clip_search.{name}": value for name, value in notes.items()}


class _Trace:
    """What the spans of one call share: the clock, and how many more there may be."""

    __slots__ = ("_offset_ns", "_parts", "tracer")

    def __init__(self, tracer: SdkTracer) -> None:
        self.tracer = tracer
        # Taken once, so that no span of the call begins before the one that it is a part of.
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._parts = itertools.count(1)  # counts in one step, whatever threads ask

    def nanoseconds(self, at: float | None) -> int:
        """Return a time of `time.monotonic`, or now, as OpenTelemetry has it: since 1970."""
        return self._offset_ns + (time.monotonic_ns() if at is None else round(at * 1e9))

    def has_room(self) -> bool:
        """Count one more part, and tell whether there may be that many."""
        return next(self._parts) <= _PARTS_MAX

    def left_out(self) -> int:
        """Return how many parts there would have been more."""
        return max(0, next(self._parts) - 1 - _PARTS_MAX)


class _Recorded(Span):
    """A span that is sent."""

    __slots__ = ("_trace", "sdk_span")

    def __init__(self, span: SdkSpan, trace: _Trace) -> None:
        self.sdk_span = span
        self._trace = trace

    @property
    def trace_id(self) -> str:
        return f"{self.sdk_span.get_span_context().trace_id:032x}"

    def child(self, name: str, started_at: float | None = None, /, **notes: Note) -> Span | None:
        if not self._trace.has_room():
            return None
        context = set_span_in_context(self.sdk_span, Context())
        started_ns = self._trace.nanoseconds(started_at)
        span = self._trace.tracer.start_span(name, context, attributes=_named(notes), start_time=started_ns)
        return _Recorded(span, self._trace)

    def item(self, name: str, /) -> Span | None:
        return self.child(name)

    def joint(self, name: str, members: Sequence[Span], started_at: float, /, **notes: Note) -> Span | None:
        spans = [cast("_Recorded", member).sdk_span for member in members]
        trace = _Trace(self._trace.tracer)
        joint = trace.tracer.start_span(
            name,
            Context(),
            attributes=_named(notes),
            links=[Link(span.get_span_context()) for span in spans],
            start_time=trace.nanoseconds(started_at),
        )
        for span in spans:
            span.add_link(joint.get_span_context())
        return _Recorded(joint, trace)

    def note(self, **notes: Note) -> None:
        self.sdk_span.set_attributes(_named(notes))

    def end(self, ended_at: float | None = None, error: BaseException | None = None) -> None:
        if error is not None:
            # Of a message nobody knows whom it quotes.
            self.sdk_span.set_attribute("error.type", type(error).__name__)
        if isinstance(error, Exception):
            self.sdk_span.set_status(StatusCode.ERROR)
        self.sdk_span.end(self._trace.nanoseconds(ended_at))


class _CallSpan(_Recorded, CallSpan):
    """A call's span."""

    __slots__ = ()

    def finish(self, code: str) -> None:
        self.sdk_span.set_attribute("rpc.response.status_code", code)
        if code in _FAILURES:
            self.sdk_span.set_status(StatusCode.ERROR)
        if left_out := self._trace.left_out():
            self.note(spans_left_out=left_out)
        self.end()


class _Stream(CallSpan):
    """A stream, which may last for hours: no span itself, its items have traces of their own."""

    __slots__ = ("_caller", "_method", "_request_id", "_tracer")

    def __init__(self, tracer: RequestTracer, method: str, caller: SpanContext | None, request_id: str) -> None:
        self._tracer = tracer
        self._method = method
        self._caller = caller
        self._request_id = request_id

    @property
    def trace_id(self) -> str:
        return "" if self._caller is None else f"{self._caller.trace_id:032x}"

    def item(self, name: str, /) -> Span | None:
        return self._tracer.item(name, self._method, self._caller, self._request_id)
