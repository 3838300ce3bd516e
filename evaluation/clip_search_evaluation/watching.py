"""Whom the work tells how far it is; knows nothing of how that is shown."""

from typing import Protocol

__all__ = ["Silence", "Watch"]


class Watch(Protocol):
    """Sees the work proceed."""

    def begin(self, description: str, total: int) -> None:
        """Begin something that has this many parts."""
        ...

    def passed(self, count: int) -> None:
        """Count parts as done."""
        ...


class Silence:
    """Watches nothing."""

    def begin(self, description: str, total: int) -> None:
        """Do nothing."""

    def passed(self, count: int) -> None:
        """Do nothing."""
