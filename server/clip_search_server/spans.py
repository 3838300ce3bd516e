"""Spans: what takes time on behalf of a request that is traced; knows nothing of OpenTelemetry and who reads them.

Whoever does the work measures it with a `Stage`, or, where start and end lie apart, with a child of the span that it
kept. Where the request is not traced, or nobody asked for traces, there is no span: that costs the look at a context
variable. Times are those of `time.monotonic`. A span that is recorded is a subclass, `telemetry/tracing.py`.

Notes are numbers, and words of this project's own: names of stages, models and collections. What callers send, and what
an error says about it, belongs into none.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final, Protocol

__all__ = ["CURRENT_SPAN", "CallSpan", "Note", "Span", "Stage", "Tracer", "untold", "within"]

Note = str | bool | int | float


class Span:
    """Something that takes time; this one is not recorded. Every method is safe from any thread."""

    __slots__ = ()

    @property
    def trace_id(self) -> str:
        """The trace that it belongs to, 32 hexadecimal digits; empty for none."""
        return ""

    def child(self, name: str, started_at: float | None = None, /, **notes: Note) -> "Span | None":
        """Start a part of it, now or at that time; None where the request has had as many parts as it may."""

    def item(self, name: str, /) -> "Span | None":
        """Start what is done for one of many things that the request brings; None where that is not traced."""

    def joint(self, name: str, members: Sequence["Span"], started_at: float, /, **notes: Note) -> "Span | None":
        """Start what is done for several requests at once: a trace of its own; it and each of `members` are linked."""

    def note(self, **notes: Note) -> None:
        """Add what is known by now; not after `end`."""

    def end(self, ended_at: float | None = None, error: BaseException | None = None) -> None:
        """End it, now or at that time; of an error its kind is kept and nothing else."""


class CallSpan(Span):
    """A call."""

    __slots__ = ()

    def finish(self, code: str) -> None:
        """End it with the name of the status that the call ended with."""


class Tracer(Protocol):
    """Decides which calls are traced, and sends their spans where the operator wants them."""

    def call(self, method: str, parent: object, request_id: str) -> CallSpan | None:
        """Start a call's span; None where the call is not to be traced.

        Args:
            method: full name, such as `/clip_search.v1.SearchService/Search`.
            parent: what the caller sent as `traceparent` (W3C Trace Context), None for nothing; any nonsense counts
                as nothing.
            request_id: as in the log.
        """

    def stream(self, method: str, parent: object, request_id: str) -> CallSpan | None:
        """Return what starts the traces of a stream's items, itself no span; arguments as of `call`."""

    def close(self, seconds_max: float) -> None:
        """Send what is left, and end; blocks no longer than about that."""


#: What the present work belongs to; None where it is not traced.
CURRENT_SPAN: Final[ContextVar[Span | None]] = ContextVar("CURRENT_SPAN", default=None)


class Stage:
    """A part of the present request: a span for as long as the block lasts, and those inside are its children."""

    __slots__ = ("_name", "_notes", "_span", "_token")

    def __init__(self, name: str, /, **notes: Note) -> None:
        self._name = name
        self._notes = notes
        self._span: Span | None = None
        self._token: Token[Span | None] | None = None

    def __enter__(self) -> Span | None:
        """Start it; None where nothing is traced."""
        parent = CURRENT_SPAN.get()
        if parent is None:
            return None
        self._span = parent.child(self._name, **self._notes)
        if self._span is not None:
            self._token = CURRENT_SPAN.set(self._span)
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, with the kind of the error if there was one."""
        if self._span is not None and self._token is not None:
            CURRENT_SPAN.reset(self._token)
            self._span.end(error=error)


class _Untold(Span):
    """Work for a traced request of which nothing is told but whose it is."""

    __slots__ = ("_of",)

    def __init__(self, of: Span) -> None:
        self._of = of

    @property
    def trace_id(self) -> str:
        return self._of.trace_id


def untold() -> Span | None:
    """Return what to do work within that adds no span to the present one, but whose log lines have its trace."""
    current = CURRENT_SPAN.get()
    return None if current is None else _Untold(current)


@contextlib.contextmanager
def within(span: Span | None) -> Iterator[None]:
    """Let what is done in the block belong to `span`; where that is None, to nothing that is traced."""
    token = CURRENT_SPAN.set(span)
    try:
        yield
    finally:
        CURRENT_SPAN.reset(token)
