"""The background thread that turns the tail into segments and keeps them few and fresh; knows nothing of SQLite.

It copies live rows out of a view, builds and writes the new segment while readers and the writer go on, and swaps it
in. One thing at a time, most urgent first: a full tail, segments with many dead rows, too many segments.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clip_search_server.index.damage import Report
from clip_search_server.index.generations import Generations
from clip_search_server.index.sealed import IdTable, SealedPart, SealedRows, share_vectors
from clip_search_server.index.segment import BuildCancelledError, SegmentEngine
from clip_search_server.index.segment_files import write_segment
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.state import State
from clip_search_server.index.view import View


@dataclass(frozen=True, slots=True)
class Job:
    """One build: the tail's first rows and these parts become one new part."""

    tail_rows: int
    retired: tuple[SealedPart, ...]


def next_job(view: View, settings: IndexSettings) -> Job | None:
    """Return the most urgent build, or None where all bounds hold."""
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
        # The smallest go together until half the bound is left, so that each merge buys room for several seals.
        by_size = sorted(zip(view.live_counts, range(len(view.parts)), strict=True))
        merged = by_size[: len(view.parts) - settings.segments_max // 2]
        return Job(0, tuple(view.parts[at] for _count, at in merged))
    return None


def gather(view: View, job: Job) -> SealedRows | None:
    """Return the job's live rows by ascending label, or None where there is none."""
    labels = []
    vectors = []
    ids: list[str] = []
    for part in job.retired:
        rows = part.live_rows(view.sequence)
        labels.append(part.rows.labels[rows])
        vectors.append(part.vectors_of(rows))
        ids.extend(part.id_at(row) for row in rows)
    if job.tail_rows:
        rows = view.tail.live_rows(view.sequence)
        labels.append(view.tail.labels[rows])
        vectors.append(view.tail.vectors[rows])
        ids.extend(view.tail.id_at(row) for row in rows)
    if not ids:
        return None
    order = np.argsort(np.concatenate(labels))
    sorted_vectors = np.concatenate(vectors)[order]  # (rows, dim)
    nodes, firsts = share_vectors(sorted_vectors)
    return SealedRows(
        labels=np.concatenate(labels)[order],
        nodes=nodes,
        ids=IdTable.of(ids[at] for at in order),
        vectors=sorted_vectors[firsts],
    )


class Builder:
    """Runs jobs until none is left, whenever it is woken.

    Args:
        state: gives the rows and takes the segments.
        generations: where segment files go.
        publish: publishes a generation of the current view.
        engine: builds the graphs.
        settings: the bounds to keep.
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
        report: Report,
    ) -> None:
        self._state = state
        self._generations = generations
        self._publish = publish
        self._engine = engine
        self._settings = settings
        self._report = report
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._published = threading.Event()
        self._unpublished = False  # A swap that no generation shows yet.
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
            self._woken.wait()
            self._woken.clear()
            try:
                self._run_jobs()
                self.failure = None
            except BuildCancelledError:
                return
            except Exception as error:  # noqa: BLE001 - the thread must outlive a full disk
                self.failure = f"{type(error).__name__}: {error}"
                self._report(f"a background build failed and will be tried again ({self.failure})")
                self._stopping.wait(self._settings.build_retry_seconds)
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
            self._run_job(view, job)
            self._unpublished = True

    def _collect_if_published(self) -> None:
        if not self._published.is_set():
            return
        self._published.clear()
        self._generations.collect_garbage({part.entry.name for part in self._state.view.parts})

    def _run_job(self, view: View, job: Job) -> None:
        rows = gather(view, job)
        made = None
        if rows is not None:
            segment = self._engine.build(rows.vectors, self._stopping.is_set)
            made = write_segment(self._generations.segment_folder, rows, segment, self._engine)
        self._state.swap(made, retired=job.retired, tail_rows=job.tail_rows)
