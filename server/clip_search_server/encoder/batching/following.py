"""Spans of a batch: one of its own, and one in each traced request that has a part in it; knows nothing of inputs.

A batch serves several requests, so it can be a child of none. Its span is a trace of its own and links to the span
`batch` of each traced request, which links back; both last as long as the batch. Before it lies `queue`, the wait.
"""

from collections.abc import Iterable
from typing import Any

from clip_search_server.encoder.batching.line import Entry
from clip_search_server.spans import Note, Span

__all__ = ["followed", "let_go"]


def followed(name: str, batch: Iterable[Entry[Any, Any]], started_at: float, **notes: Note) -> list[Span]:
    """Start the spans of a batch, its own last; none where no request in it is traced.

    Args:
        name: of the batch's own span.
        batch: all that is in it.
        started_at: when it left the queue.
        notes: what its own span says.
    """
    members: list[Span] = []
    for entry in batch:
        if entry.span is None:
            continue
        queue = entry.span.child("queue", entry.queued_at)
        if queue is not None:
            queue.end(started_at)
        member = entry.span.child("batch", started_at)
        if member is not None:
            members.append(member)
    joint = members[0].joint(name, members, started_at, **notes) if members else None
    return members if joint is None else [*members, joint]


def let_go(spans: Iterable[Span], ended_at: float, error: BaseException | None = None) -> None:
    """End what `followed` gave."""
    for span in spans:
        span.end(ended_at, error)
