"""The writes that a victim process makes: the seed foretells them, so the outcome of each can be foretold too."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_search_server.index import Collection, IndexSettings, Record
from clip_search_server.index.types import FloatArray
from tests.unit.index.support import random_vectors

DIM = 16
SPACE = "space-of-the-victims"
WRITERS = 2
OPERATIONS = 40  # a writer and round; the victim then waits to be killed
SETTINGS = IndexSettings(tail_rows_max=24, segments_max=3, throttle_seconds_max=15.0, checkpoint_pages=40, ef_min=400)

_IDS = 150  # a writer
_SNAPSHOT_EVERY = 7

VECTORS = random_vectors(200, seed=7)  # fewer than ids: vectors repeat

# What is known of an item: the number of its vector, and its text, which no other write has.
Item = tuple[int, str]
Items = dict[str, Item]


@dataclass(frozen=True)
class Operation:
    """One call: an upsert of `puts` (vector number or None to keep it, text), a delete of `gone`, or a snapshot."""

    puts: tuple[tuple[str, int | None, str], ...] = ()
    gone: tuple[str, ...] = ()

    def run(self, collection: Collection) -> int:
        """Make the call; return the sequence it reached."""
        if self.puts:
            records = [Record(name, _vector(at), {"last": text}, text) for name, at, text in self.puts]
            return collection.upsert(records).sequence
        if self.gone:
            return collection.delete(self.gone).sequence
        return collection.snapshot().sequence

    def foretell(self, items: Items) -> Items:
        """Return the items after this call."""
        after = dict(items)
        for name, at, text in self.puts:
            if at is not None:
                after[name] = (at, text)
            elif name in after:
                after[name] = (after[name][0], text)
        for name in self.gone:
            after.pop(name, None)
        return after


def operations(seed: int, writer: int) -> Iterator[Operation]:
    """Return what one writer does in one round; writers have ids of their own."""
    random = np.random.default_rng((seed, writer))
    for number in range(OPERATIONS):
        names = [f"writer {writer} item {at:03d}" for at in random.integers(_IDS, size=random.integers(1, 13))]
        kind = random.random()
        if writer == 0 and number % _SNAPSHOT_EVERY == _SNAPSHOT_EVERY - 1:
            yield Operation()
        elif kind < 0.75:
            vectors = [None if random.random() < 0.1 else int(random.integers(len(VECTORS))) for _ in names]
            texts = [f"round {seed} operation {number} record {at}" for at in range(len(names))]
            yield Operation(puts=tuple(zip(names, vectors, texts, strict=True)))
        else:
            yield Operation(gone=tuple(names))


def open_victim(folder: Path) -> Collection:
    """Open the collection that victims write to."""
    return Collection.open(folder, dim=DIM, space_id=SPACE, settings=SETTINGS)


def items_of(collection: Collection) -> Items:
    """Return everything the collection holds, in terms of the history."""
    number_of = {vector.tobytes(): at for at, vector in enumerate(VECTORS)}
    items: Items = {}
    after = ""
    while page := collection.list_items(after=after, limit=200):
        assert all(item.attributes == {"last": item.text} for item in page)
        items.update({item.id: (number_of[item.vector.tobytes()], item.text) for item in page})
        after = page[-1].id
    return items


def written_by(items: Items, writer: int) -> Items:
    """Return one writer's items."""
    return {name: item for name, item in items.items() if name.startswith(f"writer {writer} ")}


def _vector(at: int | None) -> FloatArray | None:
    return None if at is None else VECTORS[at]
