"""Finds the items of a source whose pictures have vanished, and deletes them; prints nothing and asks nobody.

An item belongs to a source by its attribute `source`, the source's absolute path: a folder of the same name elsewhere
keeps its items. A disk that is not mounted looks like a folder whose pictures have all vanished, so whoever prunes is
told what share of the items would go.
"""

from collections.abc import Collection
from dataclasses import dataclass

from clip_search.client import Client
from clip_search.filters import Attribute
from clip_search.indexing.found import Source

__all__ = ["SHARE_MAX", "Vanished", "delete_vanished", "find_vanished"]

#: Deleting a larger share of a source's items wants a person's word.
SHARE_MAX = 0.2


@dataclass(frozen=True, slots=True)
class Vanished:
    """The items of one source that have no picture any more.

    Args:
        source: which one.
        items: how many items it has.
        ids: those that have vanished.
    """

    source: Source
    items: int
    ids: tuple[str, ...]

    @property
    def is_too_many(self) -> bool:
        """Whether the share is larger than what goes without a person's word."""
        return len(self.ids) > SHARE_MAX * self.items


def find_vanished(client: Client, source: Source, found_ids: Collection[int]) -> Vanished:
    """Look through all items of a source.

    Args:
        client: of the collection.
        source: a whole one, all of which was found.
        found_ids: hashes of the ids that were found.
    """
    items = 0
    vanished = []
    prefix = f"{source.name}/" if source.name else ""
    for item in client.every_item(filter=Attribute("source") == source.origin):
        if item.id.startswith(prefix):
            items += 1
            if hash(item.id) not in found_ids:
                vanished.append(item.id)
    return Vanished(source, items, tuple(vanished))


def delete_vanished(client: Client, vanished: Vanished) -> int:
    """Delete the items; give how many were there."""
    return client.delete(vanished.ids).deleted
