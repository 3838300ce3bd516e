"""Leaves out the pictures that the server has already, as far as that can be known without reading them.

A picture is unchanged when an item has its id, and everything known of the picture without reading it (the facts: where
it is, size, time of its last change, columns of its list) stands among the item's attributes as it is known now. So a
picture that was changed, moved, or given another attribute is sent again; the server computes nothing anew for a
picture that it has under any id. Items are looked up by many ids at once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from clip_search.contents import AttributeValue
from clip_search.indexing.found import FoundPicture, Unusable
from clip_search.results import ItemsFound, StoredItem

__all__ = ["LookUp", "Sieve"]

_PICTURES_PER_LOOK_UP = 500  # half of what the server takes by default
_HELD_BYTES_MAX = 32 * 1024 * 1024

LookUp = Callable[[list[str]], ItemsFound]


@dataclass(slots=True)
class Sieve:
    """Lets through what is to be sent, and counts what is not.

    Attributes:
        found_ids: what was found, sent or not, as hashes: a million of them take some 60 MB.

    Args:
        look_up: gives the items of ids; None where everything shall be sent.
        given: attributes that every picture gets.
        skip: is told how many pictures are left out.
        ids_max: how many may be looked up at once.
    """

    look_up: LookUp | None
    given: Mapping[str, AttributeValue]
    skip: Callable[[int], None]
    ids_max: int = _PICTURES_PER_LOOK_UP
    found_ids: set[int] = field(default_factory=set)
    _sent_ids: set[int] = field(default_factory=set)

    def let_through(self, pictures: Iterable[FoundPicture | Unusable]) -> Iterator[FoundPicture | Unusable]:
        """Give what is to be sent, and what cannot be used, in their order."""
        for batch in self._batches(pictures):
            stored: Mapping[str, StoredItem] = {}
            if self.look_up is not None:
                ids = list(dict.fromkeys(each.id for each in batch if isinstance(each, FoundPicture)))
                stored = {item.id: item for item in self.look_up(ids).items} if ids else {}
            skipped = 0
            for each in batch:
                if each.id:
                    self.found_ids.add(hash(each.id))
                if isinstance(each, Unusable) or not self._is_unchanged(each, stored.get(each.id)):
                    yield each
                else:
                    skipped += 1
            if skipped:
                self.skip(skipped)

    def _is_unchanged(self, picture: FoundPicture, item: StoredItem | None) -> bool:
        """Tell whether an item is up to date; but not for what this run has sent."""
        number = hash(picture.id)
        if (
            item is not None
            and number not in self._sent_ids
            and (picture.text is None or picture.text == item.text)
            and all(_equal(item.attributes.get(name), value) for name, value in picture.facts.items())
            and all(_equal(item.attributes.get(name), value) for name, value in self.given.items())
        ):
            return True
        self._sent_ids.add(number)
        return False

    def _batches(self, pictures: Iterable[FoundPicture | Unusable]) -> Iterator[list[FoundPicture | Unusable]]:
        batch: list[FoundPicture | Unusable] = []
        held_bytes = 0
        for each in pictures:
            batch.append(each)
            held_bytes += each.held_bytes if isinstance(each, FoundPicture) else 0
            if len(batch) >= min(self.ids_max, _PICTURES_PER_LOOK_UP) or held_bytes > _HELD_BYTES_MAX:
                yield batch
                batch, held_bytes = [], 0
        if batch:
            yield batch


def _equal(stored: object, known: object) -> bool:
    return stored == known and type(stored) is type(known)  # True == 1 == 1.0
