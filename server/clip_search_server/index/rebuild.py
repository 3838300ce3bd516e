"""Makes anew a collection's segments and what filters find items by, and a catalog; no server may be running.

A collection is remade from its store, a catalog from the folders. Knows nothing of finding damage: it reads every row,
reports those that fail their check, and leaves them out. The old generation and its segments stay until the new one is
published, so that an interrupted rebuild changes nothing.
"""

import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clip_search_server.errors import ClipSearchError, DataLossError, NotFoundError, UnavailableError
from clip_search_server.index.catalog_file import catalog_path, read_catalog
from clip_search_server.index.compaction import compact_store
from clip_search_server.index.damage import DamageLog, Report
from clip_search_server.index.data_folder import DataFolder
from clip_search_server.index.engines import Engines, chosen_engine
from clip_search_server.index.entries import SegmentEntry
from clip_search_server.index.files import make_folder, sync_folder
from clip_search_server.index.generations import Generations, Manifest
from clip_search_server.index.lock import FolderLock
from clip_search_server.index.offline import require_data_folder
from clip_search_server.index.reader import StoreReader
from clip_search_server.index.recovery import Recovery, catch_up
from clip_search_server.index.schema import read_identity, store_path
from clip_search_server.index.sealing import Job, gather
from clip_search_server.index.segment import SegmentEngine
from clip_search_server.index.segment_files import write_segment
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.store import Store
from clip_search_server.index.tuning import no_queries, tune

_SECONDS_PER_REPORT = 5.0


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What became of one collection: rows in its new segment, what of its store is damaged, or why it failed."""

    name: str
    rows: int
    damage: tuple[str, ...] = ()
    failure: str | None = None


def rebuild_data(
    data: Path, *, report: Report, settings: IndexSettings | None = None, only: str | None = None
) -> list[Rebuilt]:
    """Make the segments of every collection anew, or of the one called `only`.

    Raises:
        FailedPreconditionError: a server has the folder open, or a newer release wrote its catalog.
        NotFoundError: there is no data folder, or no such collection.
        DataLossError: the catalog is damaged; see `rebuild_catalog`.
        UnavailableError: the disk refuses.
    """
    require_data_folder(data)
    with DataFolder(data, report) as folder:
        folder.note_findings()
        names = sorted(folder.contents.collections) if only is None else [only]
        if only is not None and only not in folder.contents.collections:
            raise NotFoundError(f"there is no collection {only!r} in {data}")
        results = []
        for number, name in enumerate(names, 1):
            report(f"collection {name} ({number} of {len(names)})")
            try:
                results.append(rebuild_collection(folder.folder_of(name), name, report=report, settings=settings))
            except ClipSearchError as error:
                results.append(Rebuilt(name, 0, failure=str(error)))
        return results


def rebuild_collection(
    folder: Path,
    name: str,
    *,
    report: Report,
    settings: IndexSettings | None = None,
    engine: SegmentEngine | None = None,
) -> Rebuilt:
    """Make one segment of everything in a collection's store, publish it as the only generation, compact the store.

    Raises:
        FailedPreconditionError: somebody has the collection open.
        DataLossError: its store cannot be read.
        UnavailableError: the disk refuses; the old generation is still there.
    """
    settings = settings or IndexSettings()
    engine = engine or chosen_engine(settings, report)
    try:
        with FolderLock(folder):
            rebuilt = _rebuilt(folder, name, report=report, settings=settings, engine=engine)
            compact_store(store_path(folder), report)
            return rebuilt
    except OSError as error:
        raise UnavailableError(f"{folder} could not be rebuilt ({error}); what was there still stands") from error


def _rebuilt(folder: Path, name: str, *, report: Report, settings: IndexSettings, engine: SegmentEngine) -> Rebuilt:
    """Make the segment and publish it; the caller has the folder's lock."""
    damage = DamageLog(report)
    with contextlib.ExitStack() as undo:
        identity = read_identity(store_path(folder))
        generations = Generations(folder, identity)
        make_folder(generations.folder)
        make_folder(generations.segment_folder)
        store = Store(store_path(folder), durability="always")
        undo.callback(store.close)
        reader = StoreReader(store.path, dim=identity.dim)
        undo.callback(reader.close)
        report("what filters and texts are found by")
        with store.transaction() as transaction:
            transaction.remake_derived()
        catch_up(store, generations, _readable(generations, report), damage)
        engines = Engines(engine, settings)
        recovery = Recovery(store, reader, generations, engines, settings=settings, damage=damage, report=report)
        view = recovery.run_anew(identity.dim).view
        report(f"building a graph of {view.tail.row_count:,} rows")
        rows = gather(view, Job(view.tail.row_count, ())) if view.tail.row_count else None
        segments: tuple[SegmentEntry, ...] = ()
        if rows is not None:
            segment = engine.build(rows.vectors, _never(report))
            tuning = tune(segment, rows.vectors, no_queries(), settings)
            segments = (write_segment(generations.segment_folder, rows, segment, engine, tuning).entry,)
        made = generations.publish(
            segments, sequence=view.sequence, next_label=store.next_label, item_count=view.item_count
        )
        _drop_before(generations, made.number)
        generations.collect_garbage({entry.name for entry in segments})
        return Rebuilt(name, view.tail.row_count, damage.sentences())


def rebuild_catalog(data: Path, *, report: Report) -> Path | None:
    """Put a damaged catalog aside and write one from the folders; return where the damaged one is now, None if whole.

    Raises:
        FailedPreconditionError: a server has the folder open, or a newer release wrote the catalog.
        NotFoundError: there is no data folder.
        UnavailableError: the disk refuses.
    """
    require_data_folder(data)
    path = catalog_path(data)
    aside = None
    try:
        with FolderLock(data):
            try:
                read_catalog(path)
            except DataLossError as error:
                report(str(error))
                aside = path.with_name(f"{path.name}.damaged-{secrets.token_hex(4)}")
                path.rename(aside)
                sync_folder(data)
    except OSError as error:
        raise UnavailableError(f"{path} could not be put aside ({error})") from error
    with DataFolder(data, report) as folder:
        folder.note_findings()
    return aside


def _readable(generations: Generations, report: Report) -> list[Manifest]:
    """Return the whole ones; the others are on their way out, so they are reported and no damage of the outcome."""
    manifests = []
    for number in generations.numbers():
        try:
            manifests.append(generations.read(number))
        except DataLossError as error:
            report(f"{error}; it will be replaced")
    return manifests


def _drop_before(generations: Generations, number: int) -> None:
    for older in generations.numbers():
        if older < number:
            generations.path(older).unlink(missing_ok=True)
    sync_folder(generations.folder)


def _never(report: Report) -> Callable[[], bool]:
    """Return a question that engines ask now and then while they build, always answered with no; reports the time."""
    started = told = time.monotonic()

    def cancelled() -> bool:
        nonlocal told
        if time.monotonic() - told >= _SECONDS_PER_REPORT:
            told = time.monotonic()
            report(f"still building, {told - started:.0f} s so far")
        return False

    return cancelled
