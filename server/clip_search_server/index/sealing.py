"""The background thread that turns the tail into segments and keeps them few and fresh; knows nothing of SQLite.

It copies live rows out of a view, builds and writes the new segment while readers and the writer go on, and swaps it
in. One thing at a time, most urgent first: far too many segments, a full tail, segments with many dead rows, too many
segments. Nothing is built twice for being merged: the largest of the merged graphs is copied and the rest inserted.
Where nobody has written for a while, segments with some dead rows are built anew too; that is given up as soon as
something else is to be built. With nothing to build, the thread watches how well searches are answered
(recall_watch.py).
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from clip_search_server.errors import DataLossError
from clip_search_server.index.damage import Report
from clip_search_server.index.generations import Generations
from clip_search_server.index.recall_watch import RecallWatch
from clip_search_server.index.sealed import IdTable, SealedPart, SealedRows, share_vectors
from clip_search_server.index.segment import BuildCancelledError, Segment, SegmentEngine
from clip_search_server.index.segment_files import checked_file, write_segment
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.state import State
from clip_search_server.index.tail import TailView
from clip_search_server.index.tuning import QuerySource, tune
from clip_search_server.index.types import FloatArray, IntArray
from clip_search_server.index.view import View
from clip_search_server.priority import run_nicely

# Sealing goes before merging, so that the tail is free again soon; but not for ever: at this many times the bound the
# tail has to wait, and with it ingest.
_SEGMENTS_OVERRUN = 2
# A graph is copied for a merge only while this share of the dead rows that would have it rebuilt is not reached.
_COPIED_DEAD_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """One build: the tail's first rows and these parts become one new part."""

    tail_rows: int
    retired: tuple[SealedPart, ...]


def next_job(view: View, settings: IndexSettings) -> Job | None:
    """Return the most urgent build, or None where all bounds hold."""
    if len(view.parts) >= _SEGMENTS_OVERRUN * settings.segments_max:
        return _merge(view, settings)
    if view.tail.row_count >= settings.tail_rows_max:
        return Job(view.tail.row_count, ())
    stale = tuple(
        part
        for part, live_count in zip(view.parts, view.live_counts, strict=True)
        if part.row_count - live_count > settings.dead_share_max * part.row_count
    )
    if stale:
        return Job(0, stale)
    if len(view.parts) > settings.segments_max:
        return _merge(view, settings)
    return None


def quiet_job(view: View, settings: IndexSettings) -> Job | None:
    """Return what is worth building while nobody writes: the segment with most dead rows, if they are not few."""
    dead_shares = {
        part: 1 - live_count / part.row_count for part, live_count in zip(view.parts, view.live_counts, strict=True)
    }
    worst = max(dead_shares, key=lambda part: dead_shares[part], default=None)
    return None if worst is None or dead_shares[worst] <= settings.dead_share_quiet_max else Job(0, (worst,))


def _merge(view: View, settings: IndexSettings) -> Job:
    # The smallest go together until half the bound is left, so that each merge buys room for several seals.
    by_size = sorted(zip(view.live_counts, range(len(view.parts)), strict=True))
    merged = by_size[: len(view.parts) - settings.segments_max // 2]
    return Job(0, tuple(view.parts[at] for _count, at in merged))


def base_of(view: View, job: Job, engine: SegmentEngine, settings: IndexSettings) -> SealedPart | None:
    """Return the part whose graph the new segment may start from: the largest, if this engine built it as it would now.

    None where nothing is merged, or the largest holds so many dead rows that copying them is not worth it.
    """
    if len(job.retired) < 2:  # noqa: PLR2004 - nothing to insert
        return None
    base = max(job.retired, key=lambda part: part.row_count)
    dead = base.row_count - len(base.live_rows(view.sequence))
    is_fresh = dead <= _COPIED_DEAD_SHARE * settings.dead_share_max * base.row_count
    as_now = base.entry.engine == engine.name and base.entry.parameters == dict(engine.parameters)
    return base if is_fresh and as_now else None


def gather(view: View, job: Job, base: SealedPart | None = None) -> SealedRows | None:
    """Return the job's live rows by ascending label, or None where there is none.

    With a `base`, all of its rows are among them, dead ones too, and its nodes come first, in their order.
    """
    labels, ids, vectors = _live_rows(view, job, base)
    if base is None:
        if not ids:
            return None
        nodes, firsts = share_vectors(vectors)
    else:
        held = len(base.rows.vectors)
        vectors = np.concatenate([base.rows.vectors, vectors])
        nodes, firsts = share_vectors(vectors)
        nodes = np.concatenate([base.rows.nodes, nodes[held:]])
        labels = np.concatenate([base.rows.labels, labels])
        ids = [*(base.id_at(row) for row in range(base.row_count)), *ids]
    order = np.argsort(labels)
    return SealedRows(
        labels=labels[order],
        nodes=nodes[order],
        ids=IdTable.of(ids[at] for at in order),
        vectors=vectors if len(firsts) == len(vectors) else vectors[firsts],
    )


def _live_rows(view: View, job: Job, passed_over: SealedPart | None) -> tuple[IntArray, list[str], FloatArray]:
    """Return labels (rows,), ids and vectors (rows, dim) of the job's live rows, by ascending label."""
    parts: list[SealedPart | TailView] = [part for part in job.retired if part is not passed_over]
    if job.tail_rows:
        parts.append(view.tail)
    labels = [np.empty(0, dtype=np.int64)]
    vectors = [np.empty((0, view.tail.vectors.shape[1]), dtype=np.float32)]
    ids: list[str] = []
    for part in parts:
        rows = part.live_rows(view.sequence)
        labels.append(part.labels_of(rows))
        vectors.append(part.vectors_of(rows))
        ids.extend(part.id_at(row) for row in rows)
    joined = np.concatenate(labels)
    order = np.argsort(joined)
    return joined[order], [ids[at] for at in order], np.concatenate(vectors)[order]


class Builder:
    """Runs jobs until none is left, whenever it is woken.

    Args:
        state: gives the rows and takes the segments.
        generations: where segment files go.
        publish: publishes a generation of the current view.
        engine: builds the graphs.
        settings: the bounds to keep.
        recent_queries: gives the queries that new segments are tuned for, beside vectors of their own.
        watch: is run when it is due and nothing is to be built.
        report: is told of failures.
    """

    def __init__(
        self,
        state: State,
        generations: Generations,
        publish: Callable[[], object],
        *,
        engine: SegmentEngine,
        settings: IndexSettings,
        recent_queries: QuerySource,
        watch: RecallWatch,
        report: Report,
    ) -> None:
        self._state = state
        self._generations = generations
        self._publish = publish
        self._engine = engine
        self._settings = settings
        self._recent_queries = recent_queries
        self._watch = watch
        self._report = report
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._published = threading.Event()
        self._unpublished = False  # A swap or tuning that no generation shows yet.
        self._seen_sequence = -1
        self._quiet_since = 0.0  # `_seen_sequence` was the newest then.
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="index-builder", daemon=True)
        self._thread.start()

    def wake_if_needed(self) -> None:
        """Have a look soon, if there is anything to do."""
        if next_job(self._state.view, self._settings) is not None:
            self._woken.set()

    def note_publication(self) -> None:
        """Remove soon what the newly published generation and the one before do not need."""
        self._published.set()
        self._woken.set()

    def close(self) -> None:
        """Give up the build under way, if any, and end the thread; what was swapped in stays."""
        self._stopping.set()
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            # Who deletes a little wakes nobody.
            self._woken.wait(min(self._watch.seconds_until_due(), self._settings.quiet_seconds))
            self._woken.clear()
            try:
                self._run_jobs()
                self.failure = None
                self._run_quiet_job()
                self._watch_recall()
            except BuildCancelledError:
                return
            except Exception as error:  # noqa: BLE001 - the thread must outlive a full disk
                self.failure = f"{type(error).__name__}: {error}"
                self._report(f"a background build failed and will be tried again ({self.failure})")
                self._stopping.wait(self._settings.build_retry_seconds)
                self._woken.set()

    def _watch_recall(self) -> None:
        # Whoever sets `_stopping` sets `_woken` afterwards, so that none of them is missed.
        if self._stopping.is_set() or self._woken.is_set() or self._watch.seconds_until_due() > 0:
            return
        if self._watch.run(self._woken.wait):
            self._unpublished = True
            self._woken.set()

    def _run_jobs(self) -> None:
        while True:
            if self._unpublished:
                self._publish()
                self._unpublished = False
                self._published.set()
            self._collect_if_published()
            view = self._state.view
            job = next_job(view, self._settings)
            if job is None or self._stopping.is_set():
                return
            self._run_job(view, job, self._stopping.is_set)
            self._unpublished = True

    def _run_quiet_job(self) -> None:
        view, now = self._state.view, time.monotonic()
        if view.sequence != self._seen_sequence:
            self._seen_sequence, self._quiet_since = view.sequence, now
        job = quiet_job(view, self._settings)
        if job is None or now - self._quiet_since < self._settings.quiet_seconds or self._is_needed():
            return
        try:
            self._run_job(view, job, self._is_needed)
        except BuildCancelledError:
            if self._stopping.is_set():
                raise
        else:
            self._unpublished = True
        self._woken.set()

    def _is_needed(self) -> bool:
        return self._stopping.is_set() or next_job(self._state.view, self._settings) is not None

    def _collect_if_published(self) -> None:
        if not self._published.is_set():
            return
        self._published.clear()
        self._generations.collect_garbage({part.entry.name for part in self._state.view.parts})

    def _run_job(self, view: View, job: Job, cancelled: Callable[[], bool]) -> None:
        rows, segment = self._built(view, job, cancelled)
        made = None
        if rows is not None and segment is not None:
            queries = self._recent_queries()
            tuning = tune(segment, rows.vectors, queries, self._settings, cancelled=cancelled)
            if tuning.recall < tuning.recall_target:
                self._report(
                    f"a segment of {len(rows.vectors)} vectors finds only {tuning.recall:.1%} at ef {tuning.ef}"
                )
            made = write_segment(self._generations.segment_folder, rows, segment, self._engine, tuning)
        self._state.swap(made, retired=job.retired, tail_rows=job.tail_rows)

    def _built(self, view: View, job: Job, cancelled: Callable[[], bool]) -> tuple[SealedRows | None, Segment | None]:
        base = base_of(view, job, self._engine, self._settings)
        if base is not None:
            try:
                path = checked_file(self._generations.segment_folder, base.entry, "graph")
                rows = gather(view, job, base)
                assert rows is not None, "A base has rows. This is a bug."
                held = len(base.rows.vectors)
                extend = partial(self._engine.extend, path, held, rows.vectors, cancelled)
                return rows, self._nicely(extend)
            except DataLossError as error:
                self._report(f"a segment is built anew instead of copied: {error}")
        rows = gather(view, job)
        if rows is None:
            return None, None
        return rows, self._nicely(partial(self._engine.build, rows.vectors, cancelled))

    def _nicely(self, work: Callable[[], Segment]) -> Segment:
        return run_nicely(work, niceness=self._settings.build_niceness, name="index-build")
