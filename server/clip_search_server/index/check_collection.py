"""Verifies one closed collection without changing a byte; knows nothing of other collections, nor of mending.

What is looked at, each finding naming the file or item:

    store        header, format, page checksums, SQLite's own integrity check, counters; what filters and texts are
                 found by says what the rows say
    rows         the CRC of every item, vector and thumbnail; every item has its vector; ids lead to their items
    generations  digests, formats, and that the store has come as far as they say
    segments     size and SHA-256 of every file; labels, ids and vectors equal to the store's
    graphs       recall against exact search, asked for points between two items
    pictures     those that are kept, see check_images.py
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import apsw
import numpy as np

from clip_search_server.errors import ClipSearchError, DataLossError, FailedPreconditionError
from clip_search_server.index import page_checksums
from clip_search_server.index.check_images import check_images
from clip_search_server.index.damage import Report
from clip_search_server.index.derived import find_damage
from clip_search_server.index.engines import EngineMissingError, engine_named
from clip_search_server.index.entries import KINDS, SegmentEntry
from clip_search_server.index.findings import REBUILD, RESTORE, WRITE_AGAIN, CollectionReport
from clip_search_server.index.generations import Generations, Manifest
from clip_search_server.index.lock import FolderLock
from clip_search_server.index.offline import QuietReader, connect_quietly
from clip_search_server.index.rows import crc_of
from clip_search_server.index.schema import Identity, read_identity, store_path
from clip_search_server.index.scoring import unit_vector
from clip_search_server.index.sealed import SealedPart
from clip_search_server.index.segment_files import check_file, load_checked_segment, path_of
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.types import FloatArray, IntArray

_ROWS_AT_ONCE = 5_000
_PROBLEMS_OF_SQLITE_MAX = 20
_PAGES_NAMED_MAX = 20
_RECALL_QUERIES = 64
_RECALL_AT = 10
#: Below this share of the exact hits a graph is taken to be broken; the default settings give 0.98 and more.
_RECALL_LEAST = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Some whole rows of the store, by ascending label."""

    labels: IntArray  # (rows,)
    vectors: FloatArray  # (rows, dim)
    ids: list[str]


class CollectionCheck:
    """One check of one collection."""

    def __init__(self, name: str, folder: Path, *, settings: IndexSettings, report: Report) -> None:
        self._folder = folder
        self._store = store_path(folder)
        self._settings = settings
        self._report = report
        self._result = CollectionReport(name=name)

    def run(self) -> CollectionReport:
        """Look at everything; what cannot be looked at is a finding too."""
        if not self._store.exists():
            self._result.add(self._store, "is missing", f"{RESTORE}, or delete the collection")
            return self._result
        try:
            with FolderLock(self._folder, shared=True):
                self._run()
        except (ClipSearchError, OSError) as error:
            self._result.add(self._store, error, RESTORE)
        return self._result

    def _run(self) -> None:
        try:
            identity = read_identity(self._store)
        except FailedPreconditionError as error:
            self._result.add(self._store, error, "use the release or installation that wrote it")
            return
        self._check_store()
        check_images(self._folder, self._result, self._report)
        manifests = self._check_generations(identity)
        parts = self._load_parts(identity, manifests)
        reader = QuietReader(self._store, dim=identity.dim)
        try:
            labels = reader.labels()
            self._result.items = len(labels)
            self._check_rows(reader, labels, parts)
        finally:
            reader.close()
        self._measure(parts, labels)

    # ── The store ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _check_store(self) -> None:
        self._report("the store's pages")
        connection = connect_quietly(self._store)
        try:
            self._check_integrity(connection)
            self._check_counters(connection)
            self._check_derived(connection)
        except apsw.Error as error:
            self._result.add(self._store, page_checksums.describe(error), RESTORE)
        finally:
            connection.close()

    def _check_integrity(self, connection: apsw.Connection) -> None:
        if not page_checksums.has_checksums(self._store):
            self._result.notes.append(f"{self._store} has no page checksums")
        statement = f"PRAGMA integrity_check({_PROBLEMS_OF_SQLITE_MAX})"
        try:
            problems = connection.execute(statement).fetchall()
        except apsw.IOError as error:
            if not page_checksums.is_damage(error):
                raise
            pages = page_checksums.damaged_pages(connection, self._store)
            named = ", ".join(map(str, pages[:_PAGES_NAMED_MAX])) or "in the log"
            self._result.add(
                self._store, f"pages fail their checksum: {named}", f"{RESTORE}, or write again the items named below"
            )
            with page_checksums.unchecked(connection):
                problems = connection.execute(statement).fetchall()
        for (problem,) in problems:
            if problem != "ok":
                self._result.add(self._store, f"SQLite finds: {problem}", RESTORE)

    def _check_derived(self, connection: apsw.Connection) -> None:
        # SQLite's own check has asked the index of texts.
        for sentence in find_damage(connection, ask_index_of_texts=False):
            self._result.add(self._store, sentence, REBUILD)

    def _check_counters(self, connection: apsw.Connection) -> None:
        row = connection.execute("SELECT sequence, next_label, crc FROM counters").get
        sequence, next_label, crc = cast("tuple[int, int, int]", row or (0, 0, -1))
        self._result.sequence = sequence
        if crc != crc_of(sequence, next_label):
            self._result.add(self._store, "the counters fail their checksum", RESTORE)
        newest, highest = cast(
            "tuple[int, int]",
            connection.execute("SELECT coalesce(max(sequence), 0), coalesce(max(label), 0) FROM items").get,
        )
        if newest > sequence or highest >= next_label:
            self._result.add(self._store, "the counters are behind the items", RESTORE)
        for table in ("vectors", "thumbnails"):
            strays = connection.execute(
                f"SELECT count(*) FROM {table} WHERE label NOT IN (SELECT label FROM items)"  # noqa: S608 - constants
            ).get
            if strays:
                self._result.add(self._store, f"{strays} rows of {table} belong to no item", RESTORE)

    # ── Generations and segments ─────────────────────────────────────────────────────────────────────────────────────

    def _check_generations(self, identity: Identity) -> list[Manifest]:
        generations = Generations(self._folder, identity)
        manifests = []
        for number in generations.numbers():
            try:
                manifests.append(generations.read(number))
            except DataLossError as error:
                self._result.add(generations.path(number), error, REBUILD)
            except FailedPreconditionError as error:
                self._result.add(generations.path(number), error, "use the release that wrote it")
        self._result.generations = len(manifests)
        for manifest in manifests:
            if manifest.sequence > self._result.sequence:
                self._result.add(
                    self._store,
                    f"ends at sequence {self._result.sequence} although generation {manifest.number} was published at "
                    f"{manifest.sequence}: the writes between are lost",
                    f"{RESTORE}, or run clip-search rebuild to go on without them",
                )
        return manifests

    def _load_parts(self, identity: Identity, manifests: list[Manifest]) -> list[SealedPart]:
        entries = {entry.name: entry for manifest in manifests for entry in manifest.segments}
        loaded = (self._load(entry, identity.dim) for entry in entries.values())
        parts = [part for part in loaded if part is not None]
        self._result.segments = len(parts)
        return parts

    def _load(self, entry: SegmentEntry, dim: int) -> SealedPart | None:
        self._report(f"segment {entry.name} ({entry.row_count:,} rows)")
        folder = self._folder / "segments"
        damaged = False
        for kind in KINDS:
            path = path_of(folder, entry.name, kind)
            try:
                check_file(path, entry.files[kind])
            except DataLossError as error:
                self._result.add(path, error, REBUILD)
                damaged = True
        if damaged:
            return None
        try:
            engine = engine_named(entry.engine, self._settings)
            return load_checked_segment(folder, entry, engine, dim=dim, settings=self._settings)
        except EngineMissingError as error:
            self._result.notes.append(f"the graph of segment {entry.name} was not looked at: {error}")
            return None
        except DataLossError as error:
            self._result.add(folder / entry.name, error, REBUILD)
            return None

    # ── Rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _check_rows(self, reader: QuietReader, labels: IntArray, parts: list[SealedPart]) -> None:
        wrong = dict.fromkeys((part.entry.name for part in parts), 0)
        for start in range(0, len(labels), _ROWS_AT_ONCE):
            self._report(f"rows: {start:,} of {len(labels):,}")
            rows = self._whole_rows(reader, labels[start : start + _ROWS_AT_ONCE])
            self._check_thumbnails(reader, rows.ids)
            for part in parts:
                wrong[part.entry.name] += _differences(part, rows)
        for name, count in wrong.items():
            if count:
                self._result.add(
                    self._folder / "segments" / name, f"differs from the store in {count} of its rows", REBUILD
                )

    def _whole_rows(self, reader: QuietReader, labels: IntArray) -> _Rows:
        """Return the rows that pass their checks; the others become findings."""
        whole: list[tuple[int, str, FloatArray]] = []
        for row in reader.vectors(labels.tolist()):
            if isinstance(row, DataLossError):
                self._result.add(self._store, row, WRITE_AGAIN)
            else:
                whole.append(row)
        return _Rows(
            np.array([label for label, _, _ in whole], dtype=np.int64),
            np.array([vector for _, _, vector in whole], dtype=np.float32),
            [item_id for _, item_id, _ in whole],
        )

    def _check_thumbnails(self, reader: QuietReader, ids: list[str]) -> None:
        """Read the thumbnails by id, all at once, or where that fails one by one."""
        for problem in _problems(reader, ids):
            self._result.add(self._store, problem, WRITE_AGAIN)

    # ── Graphs ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _measure(self, parts: list[SealedPart], labels: IntArray) -> None:
        recalls = []
        for part in parts:
            part.died_at[~np.isin(part.rows.labels, labels)] = 0
            live = part.live_rows(0)
            if len(live):
                self._report(f"recall of segment {part.entry.name}")
                recall = _recall(part, live)
                recalls.append(recall)
                if recall < _RECALL_LEAST:
                    subject = self._folder / "segments" / f"{part.entry.name}.graph"
                    self._result.add(subject, f"finds {recall:.0%} of what exact search finds", REBUILD)
        self._result.recall = min(recalls, default=None)


def _problems(reader: QuietReader, ids: list[str]) -> Iterator[str]:
    try:
        if None in reader.thumbnails(ids):
            yield "the index of ids does not lead to every item"
    except DataLossError as error:
        if len(ids) == 1:
            yield str(error)
        else:
            for item_id in ids:
                yield from _problems(reader, [item_id])


def _differences(part: SealedPart, rows: _Rows) -> int:
    """Return in how many rows a segment has another id or vector than the store under the same label."""
    places = np.searchsorted(part.rows.labels, rows.labels)
    places[places == part.row_count] = 0
    shared = np.flatnonzero(part.rows.labels[places] == rows.labels)
    if not len(shared):
        return 0
    same_vector = (part.vectors_of(places[shared]) == rows.vectors[shared]).all(axis=1)
    same_id = np.array([part.id_at(int(places[at])) == rows.ids[at] for at in shared])
    return int(np.count_nonzero(~(same_vector & same_id)))


def _recall(part: SealedPart, live: IntArray) -> float:
    """Return the share of the exact best that the graph finds too, over queries that are the sums of two live rows."""
    random = np.random.default_rng(len(live))
    found = wanted = 0
    for _ in range(_RECALL_QUERIES):
        pair = part.vectors_of(random.choice(live, 2)).astype(np.float64)
        query = unit_vector(pair[0] + 0.5 * pair[1], pair.shape[1], "query")
        exact, approximate = (
            np.sort(part.candidates(query, _RECALL_AT, 0, live_count=len(live), exact=exact)[1])[::-1][:_RECALL_AT]
            for exact in (True, False)
        )
        wanted += len(exact)
        found += int(np.count_nonzero(approximate >= exact[-1]))
    return found / wanted
