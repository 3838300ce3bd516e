"""Spans that a test keeps in memory, without OpenTelemetry."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from clip_search_server.spans import Note, Span

__all__ = ["RecordedSpan"]


@dataclass(slots=True, eq=False)
class RecordedSpan(Span):
    """What became of a span."""

    name: str = "call"
    started_at: float | None = None
    notes: dict[str, Note] = field(default_factory=dict)
    children: list["RecordedSpan"] = field(default_factory=list)
    links: list["RecordedSpan"] = field(default_factory=list)
    ended: bool = False
    ended_at: float | None = None
    error: BaseException | None = None
    joints: list["RecordedSpan"] = field(default_factory=list)
    thread: str = field(default_factory=lambda: threading.current_thread().name)

    @property
    def trace_id(self) -> str:
        """Always the same."""
        return "5" * 32

    def child(self, name: str, started_at: float | None = None, /, **notes: Note) -> "RecordedSpan":
        """Keep a child."""
        made = RecordedSpan(name, started_at, notes)
        self.children.append(made)
        return made

    def item(self, name: str, /) -> "RecordedSpan":
        """Keep a child."""
        return self.child(name)

    def joint(self, name: str, members: Sequence[Span], started_at: float, /, **notes: Note) -> "RecordedSpan":
        """Keep it with the first member, and link both ways."""
        made = RecordedSpan(name, started_at, notes)
        for member in members:
            assert isinstance(member, RecordedSpan)
            made.links.append(member)
            member.links.append(made)
        self.joints.append(made)
        return made

    def note(self, **notes: Note) -> None:
        """Keep notes."""
        assert not self.ended
        self.notes.update(notes)

    def end(self, ended_at: float | None = None, error: BaseException | None = None) -> None:
        """Keep the end; there is one."""
        assert not self.ended
        self.ended, self.ended_at, self.error = True, ended_at, error

    def every(self) -> Iterator["RecordedSpan"]:
        """Give this span and all below it."""
        yield self
        for child in self.children:
            yield from child.every()

    def tree(self) -> list[str]:
        """Return the names of all below it, each with those above: `search/rank`."""
        return [
            path for child in self.children for path in (child.name, *(f"{child.name}/{name}" for name in child.tree()))
        ]
