"""One collection: joins store, writer, state, builder and generations; knows nothing of gRPC, models or asyncio."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy.typing as npt

from clip_search_server.errors import DataLossError, ResourceExhaustedError, UnavailableError
from clip_search_server.index.damage import DamageLog, Report
from clip_search_server.index.engines import Engines, chosen_engine
from clip_search_server.index.figures import WriteFigures
from clip_search_server.index.files import folder_bytes, make_folder
from clip_search_server.index.filters import Filter, check_filter
from clip_search_server.index.finder import Finder
from clip_search_server.index.generations import Generations
from clip_search_server.index.lock import FolderLock
from clip_search_server.index.reader import StoreReader
from clip_search_server.index.recall_watch import RecallWatch
from clip_search_server.index.recent_queries import RecentQueries
from clip_search_server.index.recovery import Recovery
from clip_search_server.index.schema import Identity, identity_of, read_identity, store_path
from clip_search_server.index.scoring import unit_vector
from clip_search_server.index.sealing import Builder
from clip_search_server.index.segment import SegmentEngine
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.state import State
from clip_search_server.index.store import Store
from clip_search_server.index.transaction import Change, Transaction
from clip_search_server.index.tuning import QuerySource
from clip_search_server.index.types import (
    CollectionStats,
    DeleteOutcome,
    FloatArray,
    Found,
    Generation,
    Record,
    Search,
    SearchOutcome,
    StoredItem,
    UpsertOutcome,
)
from clip_search_server.index.validation import check_count, check_id, check_ids, check_window, checked_record
from clip_search_server.index.writer import GroupCommitWriter

_Result = TypeVar("_Result")

# Ingest waits once the tail has this many times the rows at which it is sealed.
_TAIL_OVERRUN = 2


def _say_nothing(_line: str) -> None:
    return


class Collection:
    """Items with unit vectors, kept durably and searched by cosine; every method is safe from any thread.

    Reads never wait for writes. A write that has returned is on the disk (under the durability policy) and every later
    read sees it. Use `open`.
    """

    def __init__(
        self,
        identity: Identity,
        settings: IndexSettings,
        *,
        lock: FolderLock,
        store: Store,
        reader: StoreReader,
        generations: Generations,
        engine: SegmentEngine,
        state: State,
        recent_queries: QuerySource | None,
        damage: DamageLog,
        report: Report,
    ) -> None:
        self._identity = identity
        self._settings = settings
        self._lock = lock
        self._store = store
        self._reader = reader
        self._generations = generations
        self._state = state
        self._recent = RecentQueries(identity.dim)
        self._finder = Finder(state, reader, settings, self._recent, dim=identity.dim)
        self._damage = damage
        self._closed = False
        self._publishing = threading.Lock()
        self._writer = GroupCommitWriter(store, self._follow, settings)
        queries = recent_queries or self._recent.newest
        self._watch = RecallWatch(lambda: state.view, queries, self._recent.count, settings=settings, report=report)
        self._builder = Builder(
            state,
            generations,
            self._publish,
            engine=engine,
            settings=settings,
            recent_queries=recent_queries or self._recent.for_tuning,
            watch=self._watch,
            report=report,
        )
        self._builder.wake_if_needed()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        dim: int,
        space_id: str,
        settings: IndexSettings | None = None,
        progress: Report = _say_nothing,
        engine: SegmentEngine | None = None,
        recent_queries: QuerySource | None = None,
    ) -> "Collection":
        """Create or recover the collection in `directory`; return when it can serve.

        Args:
            directory: a folder of its own; made if missing.
            dim: components of a vector.
            space_id: what makes vectors comparable; recorded at creation.
            settings: limits and knobs; the defaults are for a server.
            progress: told, from any thread, of long work, damage and background failures, a line each.
            engine: makes the segments; by default the one that the settings choose.
            recent_queries: asked, from any thread, for queries that segments are to answer well; by default those that
                the collection was asked itself.

        Raises:
            SpaceMismatchError: the folder holds vectors of another space or dimension; nothing was changed.
            FailedPreconditionError: another process has it open, a newer release wrote it, or the chosen engine is not
                installed; nothing was changed.
            DataLossError: the store itself is damaged or missing beside its generations.
            UnavailableError: the disk refuses.
        """
        settings = settings or IndexSettings()
        engine = engine or chosen_engine(settings, progress)
        try:
            with contextlib.ExitStack() as undo:
                make_folder(directory)
                lock = undo.enter_context(FolderLock(directory))
                identity = identity_of(directory, dim=dim, space_id=space_id)
                generations = Generations(directory, identity)
                make_folder(generations.folder)
                make_folder(generations.segment_folder)
                store = Store(store_path(directory), durability=settings.durability)
                undo.callback(store.close)
                reader = StoreReader(store.path, dim=dim)
                undo.callback(reader.close)
                damage = DamageLog(progress)
                engines = Engines(engine, settings)
                recovery = Recovery(
                    store, reader, generations, engines, settings=settings, damage=damage, report=progress
                )
                collection = cls(
                    identity,
                    settings,
                    lock=lock,
                    store=store,
                    reader=reader,
                    generations=generations,
                    engine=engine,
                    state=recovery.run(dim),
                    recent_queries=recent_queries,
                    damage=damage,
                    report=progress,
                )
                undo.pop_all()
                return collection
        except OSError as error:
            raise UnavailableError(f"{directory} cannot be opened ({error})") from error

    @classmethod
    def open_existing(
        cls,
        directory: Path,
        *,
        settings: IndexSettings | None = None,
        progress: Report = _say_nothing,
        engine: SegmentEngine | None = None,
    ) -> "Collection":
        """Recover the collection in `directory`, of whatever space it is; arguments and errors as in `open`."""
        identity = read_identity(store_path(directory))
        return cls.open(
            directory,
            dim=identity.dim,
            space_id=identity.space_id,
            settings=settings,
            progress=progress,
            engine=engine,
        )

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return self._identity.dim

    @property
    def space_id(self) -> str:
        """What the collection's vectors are comparable with."""
        return self._identity.space_id

    @property
    def throttle_seconds_max(self) -> float:
        """Longest that a write should wait for room, by the settings."""
        return self._settings.throttle_seconds_max

    @property
    def sequence(self) -> int:
        """Number of the newest write that reads can see."""
        return self._state.view.sequence

    @property
    def figures(self) -> WriteFigures:
        """How writes went since it was opened."""
        return self._store.figures

    @property
    def write_failure(self) -> str | None:
        """Why writes are refused since the disk failed, None where they are not."""
        return self._store.failure

    @property
    def item_count(self) -> int:
        """Items that reads can see."""
        return self._state.view.item_count

    def upsert(self, records: Sequence[Record], *, patience_seconds: float | None = None) -> UpsertOutcome:
        """Store records in one transaction, each replacing the item of its id; of the same id twice, the last wins.

        A record that is refused never fails its neighbours: its place in the outcome holds the error, whose field is
        relative to the record.

        Args:
            records: what to store.
            patience_seconds: how long to wait for room, see `wait_for_room`; by default the settings'
                `throttle_seconds_max`.

        Raises:
            InvalidArgumentError: too many records in one call; nothing was written.
            ResourceExhaustedError: segments cannot be built as fast as items arrive; nothing was written.
            UnavailableError: the disk failed or the collection is closed; nothing is acknowledged.
        """
        check_count(len(records), "records", self._settings.records_max)
        checked = [checked_record(record, dim=self.dim, settings=self._settings) for record in records]
        seconds_max = self._settings.throttle_seconds_max
        if not self.wait_for_room(seconds_max if patience_seconds is None else patience_seconds):
            raise ResourceExhaustedError(
                "items arrive faster than they can be indexed; send them more slowly", retry_after_seconds=seconds_max
            )
        return self._writer.run(lambda transaction: transaction.put_all(checked))

    def wait_for_room(self, seconds_max: float) -> bool:
        """Wait while the exact tail is over its bound because items arrive faster than segments are built.

        Returns:
            Whether there is room now.
        """
        return self._state.wait_for_tail_below(_TAIL_OVERRUN * self._settings.tail_rows_max, seconds_max=seconds_max)

    def delete(self, item_ids: Sequence[str]) -> DeleteOutcome:
        """Delete items in one transaction; ids without an item are passed over.

        Raises:
            InvalidArgumentError: too many ids, or one that cannot be an id; nothing was deleted.
            UnavailableError: the disk failed or the collection is closed; nothing is acknowledged.
        """
        check_ids(item_ids, self._settings)
        return self._writer.run(lambda transaction: transaction.remove_all(item_ids))

    def delete_matching(self, filter_: Filter) -> DeleteOutcome:
        """Delete every item that the filter allows now, and still allows when its turn comes.

        Up to `records_max` go in one transaction; beyond that one follows the other, so that other writes get theirs.

        Raises:
            InvalidArgumentError: the filter cannot be evaluated; nothing was deleted.
            UnavailableError: the disk failed or the collection is closed; earlier transactions stand.
        """
        self._check_filter(filter_)
        with self._reader.state() as state:
            labels = state.matching(filter_)
        outcome = DeleteOutcome(0, self.sequence)
        for start in range(0, len(labels), self._settings.records_max):
            some = labels[start : start + self._settings.records_max]
            batch = self._writer.run(partial(Transaction.remove_matching, labels=some, filter_=filter_))
            outcome = DeleteOutcome(outcome.deleted + batch.deleted, batch.sequence)
        return outcome

    def count(self, filter_: Filter | None = None) -> int:
        """Return how many items there are, or how many the filter allows; errors as in `list_items`."""
        if filter_ is None:
            return self._state.view.item_count
        self._check_filter(filter_)
        with self._reader.state() as state:
            return len(state.matching(filter_))

    def get(self, item_ids: Sequence[str]) -> list[StoredItem | None]:
        """Return the items of these ids in order, None where there is none; all of one moment.

        Raises:
            InvalidArgumentError: too many ids, or one that cannot be an id.
            DataLossError: one of the items fails its checksum.
        """
        check_ids(item_ids, self._settings)
        return self._read(lambda: self._reader.get(item_ids))

    def digests(self, item_ids: Sequence[str]) -> list[bytes | None]:
        """Return the content digests of these ids in order, None where there is no item; errors as in `get`."""
        check_ids(item_ids, self._settings)
        return self._read(lambda: self._reader.digests(item_ids))

    def sync(self) -> None:
        """Return once every write so far is durable, whatever the durability setting.

        Raises:
            UnavailableError: the disk refused, or the collection is closed.
        """
        self._writer.sync()

    def vector_of_content(self, digest: bytes) -> FloatArray | None:
        """Return the vector, float32 (dim,), of an item whose content has this digest, None where none is to be had.

        A damaged item is as good as none: its damage is noted, and making its vector anew is what mends it.

        Raises:
            UnavailableError: the collection is closed.
        """
        try:
            return self._read(lambda: self._reader.vector_of_content(digest))
        except DataLossError:
            return None

    def thumbnails(self, item_ids: Sequence[str]) -> list[bytes | None]:
        """Return the thumbnails of these ids in order, ``b""`` for an item without, None where there is no item."""
        check_ids(item_ids, self._settings)
        return self._read(lambda: self._reader.thumbnails(item_ids))

    def list_items(self, *, after: str = "", limit: int, filter_: Filter | None = None) -> list[StoredItem]:
        """Return up to `limit` items with ids above `after`, in byte order of the ids' UTF-8; errors as in `get`.

        With a filter only items that it allows, and InvalidArgumentError where it cannot be evaluated.
        """
        if after:
            check_id(after, "after", self._settings)
        check_window(limit, 0, self._settings.records_max)
        self._check_filter(filter_)
        return self._read(lambda: self._reader.list_after(after, limit, filter_, rows_few=self._settings.records_max))

    def expect_queries(self, queries: FloatArray) -> None:
        """Tune new segments for queries, float32 (queries, dim) of unit length, until others like them were asked."""
        self._recent.expect(queries)

    def find(self, search: Search) -> Found:
        """Return the items that a search asks for, read in the very moment they were found in.

        Fewer than `limit` come back only where fewer are allowed, reach `min_score` and, ranked by text, match.

        Raises:
            InvalidArgumentError: naming the argument.
            DataLossError: one of the items fails its checksum.
            UnavailableError: the collection is closed.
        """
        check_window(search.limit, search.offset, self._settings.search_window_max)
        self._check_filter(search.filter)
        return self._read(lambda: self._finder.find(search))

    def search(
        self,
        query: npt.ArrayLike,  # (dim,)
        *,
        limit: int,
        offset: int = 0,
        exact: bool = False,
        min_score: float | None = None,
    ) -> SearchOutcome:
        """Return the ids nearest to `query` by cosine, `limit` of them after the first `offset`, from memory alone.

        Fewer come back only where fewer are alive (or reach `min_score`). The order is by score, ties by id.

        Args:
            query: finite and non-zero; need not be of unit length.
            limit: hits wanted, at least 1.
            offset: hits to pass over.
            exact: scan every vector instead of walking the graphs.
            min_score: leave out hits below this cosine.

        Raises:
            InvalidArgumentError: naming the argument.
            UnavailableError: the collection is closed.
        """
        if self._closed:
            raise UnavailableError("the collection is closed")
        window = check_window(limit, offset, self._settings.search_window_max)
        view = self._state.view
        vector = unit_vector(query, self.dim, "query")
        self._recent.note(vector)
        hits = view.nearest(vector, window, exact=exact)[offset:]
        if min_score is not None:
            hits = [hit for hit in hits if hit.score >= min_score]
        return SearchOutcome(tuple(hits), view.sequence)

    def snapshot(self) -> Generation:
        """Publish a generation of the present segments; neither seals the tail nor copies the store.

        With nothing new since the newest generation, that one is returned.

        Raises:
            UnavailableError: the disk refused, the newest write cannot be made durable, or the collection is closed.
        """
        if self._closed:
            raise UnavailableError("the collection is closed")
        generation = self._publish()
        self._builder.note_publication()
        return generation

    def stats(self) -> CollectionStats:
        """Return counts, sizes and everything known to be wrong."""
        view = self._state.view
        return CollectionStats(
            item_count=view.item_count,
            sequence=view.sequence,
            tail_row_count=view.tail.row_count,
            segments=tuple(part.stats(live) for part, live in zip(view.parts, view.live_counts, strict=True)),
            generation=self._generations.newest(),
            disk_bytes=folder_bytes(self._store.path.parent),
            memory_bytes=sum(part.entry.file_bytes for part in view.parts) + view.tail.vectors.nbytes,
            recall=self._watch.estimate,
            damage=self._damage.sentences(),
            write_failure=self._store.failure,
            build_failure=self._builder.failure,
        )

    def close(self) -> None:
        """Finish the writes under way, give up a build under way, and let the folder go; harmless when repeated.

        Raises:
            UnavailableError: the log could not be folded into the store; acknowledged writes are still in the log.
        """
        if self._closed:
            return
        self._closed = True
        with contextlib.ExitStack() as steps:  # They run last to first, each even where another raised.
            steps.callback(self._lock.release)
            steps.callback(self._store.close)
            steps.callback(self._reader.close)
            steps.callback(self._writer.close)
            steps.callback(self._state.end_waiting)
            steps.callback(self._builder.close)

    def _follow(self, changes: Sequence[Change], sequence: int) -> None:
        self._state.apply(changes, sequence)
        self._builder.wake_if_needed()

    def _publish(self) -> Generation:
        self._store.check_writable()
        try:
            # Between taking the view and publishing it nobody else may publish, nor therefore remove what it names.
            with self._publishing:
                view = self._state.view
                segments = tuple(part.entry for part in view.parts)
                present = self._generations.newest_if(segments, sequence=view.sequence)
                if present is not None:
                    return present
                started = time.monotonic()
                self._writer.sync()
                published = self._generations.publish(
                    segments,
                    sequence=view.sequence,
                    next_label=self._store.next_label,
                    item_count=view.item_count,
                )
                self.figures.snapshot_seconds.observe(time.monotonic() - started)
                return published
        except OSError as error:
            raise UnavailableError(
                f"no generation could be published ({error}); the ones before still stand"
            ) from error

    def _check_filter(self, filter_: Filter | None) -> None:
        if filter_ is not None:
            limits = self._settings
            check_filter(filter_, conditions_max=limits.filter_conditions_max, depth_max=limits.filter_depth_max)

    def _read(self, read: Callable[[], _Result]) -> _Result:
        try:
            return read()
        except DataLossError as error:
            self._damage.note(error)
            raise
