"""What sources give: pictures that can be read, and what cannot be used, with the reason. Reads nothing itself."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from clip_search.contents import AttributeValue

__all__ = ["FoundPicture", "Source", "UnreadableError", "Unusable"]


class UnreadableError(Exception):
    """A picture that was found cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class FoundPicture:
    """A picture whose content has not been looked at.

    Args:
        id: what it is stored under.
        place: where it is, for people.
        size_bytes: of the encoded picture, as far as is known without reading it.
        facts: what is known without reading the picture; stored as attributes, and compared with those that are stored.
        read: gives its bytes, at most so many as it is given; raises `UnreadableError`. From any thread.
        text: words that belong to it; None where the source has no such thing.
        held_bytes: what the picture takes in memory already; 0 where reading is still to come.
    """

    id: str
    place: str
    size_bytes: int
    facts: Mapping[str, AttributeValue]
    read: Callable[[int], bytes] = field(repr=False)
    text: str | None = None
    held_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Unusable:
    """Something that cannot be used, and why.

    Args:
        place: where it is, for people.
        reason: one clause.
        id: of the picture, where it is one; its item is then not taken for vanished.
        hides_pictures: whether pictures may be behind it that are not seen for that reason.
    """

    place: str
    reason: str
    id: str = ""
    hides_pictures: bool = False


class Source(Protocol):
    """Something that holds pictures.

    Attributes:
        name: what the ids of its pictures begin with.
        origin: the absolute path that stands in their attribute `source`.
        is_whole: whether it gives all that there is under its name; False for one file of a folder.
    """

    @property
    def name(self) -> str:
        """What the ids begin with."""

    @property
    def origin(self) -> str:
        """The absolute path that stands in the attribute `source`."""

    @property
    def is_whole(self) -> bool:
        """Whether what it does not give has vanished."""

    def pictures(self, bytes_max: int) -> Iterator[FoundPicture | Unusable]:
        """Find the pictures, and what cannot be used.

        Args:
            bytes_max: larger pictures need not be read: the server would refuse them.
        """

    def count(self) -> int | None:
        """Tell about how many pictures there are, without reading them; None where that costs too much."""
