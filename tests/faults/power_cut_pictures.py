"""The life of kept pictures on a recorded disk, and what must be true of what a power cut leaves of them.

Items made from pictures come, change theirs and go; two writers share some pictures. Each acknowledgement has its place
among the recorded changes. Knows nothing of how changes are recorded or lost.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import apsw
import pytest

from clip_search_server.index import Collection, ImageBudget, KeptImages, Record, kept_images
from clip_search_server.index.settings import Durability
from tests.faults import power_cuts
from tests.faults.index_history import DIM, SETTINGS, SPACE, VECTORS, WRITERS
from tests.faults.power_cut_disk import Change, Cut
from tests.faults.power_cut_layer import recording
from tests.faults.writers import run_writers

FOLDER = "collection"
CALLS = 24  # a writer and session

_IDS = 12  # a writer
_PICTURES = 30  # fewer than are asked for: some are shared
_CHECKPOINT_PAGES = 12  # so that the log is folded often
_BYTES_MAX = 50_000_000

# What an item was made from: the number of a picture, None for one made from something else.
Items = Mapping[str, int | None]


def _picture(number: int) -> bytes:
    """Return bytes that no other picture has, of less than a page or of several."""
    chance = random.Random(number)
    return chance.randbytes(chance.choice([300, 5_000, 40_000]))


PICTURES = [_picture(number) for number in range(_PICTURES)]
_NUMBERS = {hashlib.sha256(picture).digest(): number for number, picture in enumerate(PICTURES)}
_OTHER_DIGEST = hashlib.sha256(b"no picture").digest()


@dataclass(frozen=True, slots=True)
class Call:
    """An upsert of items with the pictures they are made from, or a deletion; one that `forgets` leaves its pictures.

    So does a process that dies in between: what it leaves is swept away after the next opening.
    """

    puts: Items = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    forgets: bool = False

    def foretell(self, items: Items) -> Items:
        """Return the items after this call."""
        return {name: made_from for name, made_from in {**items, **self.puts}.items() if name not in self.gone}


@dataclass(frozen=True, slots=True)
class PictureHistory:
    """What happened, in order, and for each writer after how many changes it knew which items to be stored."""

    durability: Durability
    changes: Sequence[Change]
    told: Mapping[int, Sequence[tuple[int, Items]]]


class Kept:
    """A collection with its kept pictures, as a server has them."""

    def __init__(self, folder: Path, durability: Durability, said: list[str]) -> None:
        settings = replace(SETTINGS, durability=durability, sync_interval_seconds=0.02)
        self.collection = Collection.open(folder, dim=DIM, space_id=SPACE, settings=settings, progress=lambda _: None)
        self.images = KeptImages(
            folder, ImageBudget(_BYTES_MAX), self.collection.digests, self.collection.sync, said.append
        )

    def run(self, call: Call) -> None:
        """Make a call as the server makes it."""
        if call.puts:
            records = [_record(name, made_from) for name, made_from in call.puts.items()]
            with self.images.keeping(records):
                self.collection.upsert(records)
            return
        self.collection.delete(call.gone)
        if not call.forgets:
            self.images.forget(call.gone)

    def items(self) -> Items:
        """Return what every item is made from."""
        names = [item.id for item in self.collection.list_items(limit=1_000)]
        return {
            name: None if digest == _OTHER_DIGEST else _NUMBERS[digest or b""]
            for name, digest in zip(names, self.collection.digests(names), strict=True)
        }

    def swept(self) -> None:
        """Wait until everything that is kept has been compared with the store."""
        sweeper = self.images._sweeper
        if sweeper is not None:
            sweeper.join()

    def close(self) -> None:
        """Close both."""
        self.images.close()
        self.collection.close()


def _record(name: str, made_from: int | None) -> Record:
    vector = VECTORS[made_from or 0]
    if made_from is None:
        return Record(name, vector, content_digest=_OTHER_DIGEST)
    image = PICTURES[made_from]
    return Record(name, vector, content_digest=hashlib.sha256(image).digest(), image=image)


def _calls(seed: int, writer: int) -> Iterator[Call]:
    chance = random.Random(seed * WRITERS + writer)
    for _ in range(CALLS):
        names = [f"writer {writer} item {at:02}" for at in chance.sample(range(_IDS), chance.randint(1, 4))]
        if chance.random() < 0.25:
            yield Call(gone=tuple(names), forgets=chance.random() < 0.3)
        else:
            yield Call({name: None if chance.random() < 0.1 else chance.randrange(_PICTURES) for name in names})


def recorded_pictures(
    root: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability, seeds: Iterable[int]
) -> PictureHistory:
    """Open, write and close once for each seed, in the new folder `root`, and return what happened."""
    root.mkdir()
    told: dict[int, list[tuple[int, Items]]] = {writer: [(0, {})] for writer in range(WRITERS)}
    real = kept_images.connect_for_writing  # type: ignore[attr-defined]  # maybe a mutant's

    def connect(path: Path) -> apsw.Connection:
        connection = real(path)
        connection.wal_autocheckpoint(_CHECKPOINT_PAGES)
        return connection

    with monkeypatch.context() as patch, recording(root, monkeypatch) as recorder:
        patch.setattr(kept_images, "connect_for_writing", connect)
        for seed in seeds:
            kept = Kept(root / FOLDER, durability, [])
            try:
                _write(kept, seed, told, lambda: recorder.position)
            finally:
                kept.close()
    return PictureHistory(durability, recorder.changes, told)


def _write(kept: Kept, seed: int, told: Mapping[int, list[tuple[int, Items]]], position: Callable[[], int]) -> None:
    def write(writer: int) -> None:
        for call in _calls(seed, writer):
            kept.run(call)
            told[writer].append((position(), call.foretell(told[writer][-1][1])))

    run_writers(WRITERS, write)


def telling(history: PictureHistory, count: int) -> list[int]:
    """Return about so many points where a step out of order would hurt: at answers."""
    points = sorted({position for told in history.told.values() for position, _ in told})
    return sorted(random.Random(count).sample(points, min(count, len(points))))


def violations(history: PictureHistory, points: Iterable[int], cuts: Sequence[Cut], folder: Path) -> list[str]:
    """Cut the power at these points and return in words all that is then wrong; see `power_cuts.violations`."""
    return power_cuts.violations(
        history.changes, points, cuts, folder, lambda remains, point: check(remains / FOLDER, history, point)
    )


def check(folder: Path, history: PictureHistory, point: int) -> None:
    """Open what is left after `point` changes: every acknowledged item is there, and its picture, byte for byte."""
    said: list[str] = []
    kept = Kept(folder, history.durability, said)
    try:
        found = kept.items()
        for writer, told in history.told.items():
            own = {name: made_from for name, made_from in found.items() if name.startswith(f"writer {writer} ")}
            _check_items(own, history, told, point)
        _check_pictures(kept, found)
        kept.swept()
        _check_pictures(kept, found)
        needed = {made_from for made_from in found.values() if made_from is not None}
        stats = kept.images.stats()
        assert stats is not None
        assert (stats.images, stats.bytes) == (len(needed), sum(len(PICTURES[each]) for each in needed))
        kept.run(Call({"afterwards": 0}))
        _check_pictures(kept, {"afterwards": 0})
    finally:
        kept.close()
    assert said == []


def _check_items(found: Items, history: PictureHistory, told: Sequence[tuple[int, Items]], point: int) -> None:
    now = max(at for at, (position, _) in enumerate(told) if position <= point)
    # Where the log is synced now and then, the newest calls may be missing.
    first = 0 if history.durability == "interval" else now
    assert found in [items for _, items in told[first : now + 2]], "the items are not those acknowledged"


def _check_pictures(kept: Kept, items: Items) -> None:
    for name, made_from in items.items():
        (digest,) = kept.collection.digests([name])
        image = kept.images.get(digest or b"")
        if made_from is None:
            assert image is None, f"{name} has a picture that it was not made from"
        else:
            assert image is not None, f"the picture of {name} is gone"
            assert image == PICTURES[made_from], f"{name} is given another picture"
