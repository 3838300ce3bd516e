"""From files to a state in memory, whatever the last process left behind; knows nothing of later writes.

0. What was found is made durable before anything is built on it: a process that was killed leaves bytes and names that
   only the kernel's memory has, and a power cut could take them from under later acknowledgements.
1. A manifest ahead of the store means that the store lost its newest writes (a damaged log, an older copy put back).
   Its labels may be given out again, so every manifest is removed *before* the counters are raised past them.
2. The newest generation that loads whole is taken; where none does, the one of which most rows load. Every file passes
   its digest check before anything reads it.
3. What the store lists as alive is alive; every other row of the segments is dead.
4. Live rows that no loaded segment holds are read from the store into the tail. With no usable generation that is all
   of them: the graphs are then built anew, in the background, while the tail answers exactly. The same happens to a
   segment whose engine is not installed any more; that is reported, and is no damage.
"""

import contextlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clip_search_server.errors import DataLossError
from clip_search_server.index.damage import DamageLog, Report
from clip_search_server.index.engines import EngineMissingError, Engines
from clip_search_server.index.files import sync_folder
from clip_search_server.index.generations import Generations, Manifest
from clip_search_server.index.reader import StoreReader
from clip_search_server.index.sealed import SealedPart
from clip_search_server.index.segment_files import load_segment
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.state import State
from clip_search_server.index.store import Store
from clip_search_server.index.tail import Tail
from clip_search_server.index.types import IntArray

_ROWS_PER_REPORT = 100_000


class Recovery:
    """One opening of a collection.

    Args:
        store: the source of truth, open for writing; its counters may be raised.
        reader: reads of the same store.
        generations: what was published before.
        engines: load the graphs.
        settings: what segments that record no tuning for them are tuned to.
        damage: is told of everything that fails a check.
        report: is told how far long work has come.
    """

    def __init__(
        self,
        store: Store,
        reader: StoreReader,
        generations: Generations,
        engines: Engines,
        *,
        settings: IndexSettings,
        damage: DamageLog,
        report: Report,
    ) -> None:
        self._store = store
        self._reader = reader
        self._generations = generations
        self._engines = engines
        self._settings = settings
        self._damage = damage
        self._report = report
        self._loaded: dict[str, SealedPart | None] = {}  # None: cannot be loaded

    def run(self, dim: int) -> State:
        """Return the state that equals the store."""
        self._settle()
        self._generations.remove_temporaries()
        manifests = self._readable_manifests()
        if catch_up(self._store, self._generations, manifests, self._damage):
            manifests = []
        return self._state(self._best_parts(manifests, dim), dim)

    def _settle(self) -> None:
        self._store.sync()
        for folder in (self._generations.folder, self._generations.segment_folder):
            sync_folder(folder)

    def run_anew(self, dim: int) -> State:
        """Return the state that equals the store with every row in the tail, whatever segments there are."""
        return self._state([], dim)

    def _state(self, parts: list[SealedPart], dim: int) -> State:
        labels = self._reader.labels()
        is_sealed = np.zeros(len(labels), dtype=bool)
        for part in parts:
            places, is_alive = _places_among(labels, part.rows.labels)
            part.died_at[~is_alive] = 0
            is_sealed[places[is_alive]] = True
        tail = self._load_tail(labels[~is_sealed], dim)
        return State(parts, tail, sequence=self._store.sequence, item_count=len(labels))

    def _readable_manifests(self) -> list[Manifest]:
        manifests = []
        for number in self._generations.numbers():
            try:
                manifests.append(self._generations.read(number))
            except DataLossError as error:
                self._damage.note(error)
        return manifests

    def _best_parts(self, manifests: Sequence[Manifest], dim: int) -> list[SealedPart]:
        best: list[SealedPart] = []
        for manifest in manifests:
            parts = self._parts_of(manifest, dim)
            if len(parts) == len(manifest.segments):
                return parts
            self._report(f"generation {manifest.number} does not load whole; trying the one before")
            best = max(best, parts, key=lambda candidate: sum(part.row_count for part in candidate))
        return best

    def _parts_of(self, manifest: Manifest, dim: int) -> list[SealedPart]:
        for entry in manifest.segments:
            if entry.name in self._loaded:
                continue
            try:
                self._report(f"loading segment {entry.name} ({entry.row_count} rows)")
                self._loaded[entry.name] = load_segment(
                    self._generations.segment_folder, entry, self._engines, dim=dim, settings=self._settings
                )
            except DataLossError as error:
                self._damage.note(error)
                self._loaded[entry.name] = None
            except EngineMissingError as error:
                self._report(f"segment {entry.name} is built anew from the store: {error}")
                self._loaded[entry.name] = None
        found = (self._loaded[entry.name] for entry in manifest.segments)
        return [part for part in found if part is not None]

    def _load_tail(self, labels: IntArray, dim: int) -> Tail:
        tail = Tail(dim)
        with contextlib.closing(self._reader.vectors(labels.tolist())) as rows:
            for count, row in enumerate(rows):
                if count and count % _ROWS_PER_REPORT == 0:
                    self._report(f"reading the store: {count} of {len(labels)} rows")
                if isinstance(row, DataLossError):
                    self._damage.note(row)
                else:
                    tail.append(*row)
        return tail


def _places_among(labels: IntArray, wanted: IntArray) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Return where each wanted label would stand among ascending labels, and whether it does."""
    places = np.searchsorted(labels, wanted)
    is_there = places < len(labels)
    is_there[is_there] = labels[places[is_there]] == wanted[is_there]
    return places, is_there


def catch_up(store: Store, generations: Generations, manifests: Sequence[Manifest], damage: DamageLog) -> bool:
    """Where a generation is ahead of the store, forget them all and raise the store's counters; return whether so."""
    sequence = max((manifest.sequence for manifest in manifests), default=0)
    if sequence <= store.sequence:
        return False
    damage.note(
        f"{store.path} ends at sequence {store.sequence} although {sequence} was reached: "
        "the writes between are lost; restore a backup if they matter"
    )
    next_label = max(manifest.next_label for manifest in manifests)
    generations.forget_all()
    store.advance(sequence=sequence, next_label=next_label)
    return True
