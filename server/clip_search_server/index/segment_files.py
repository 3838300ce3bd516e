"""The three files of a sealed segment: written once, checked by digest before every load; knows nothing of generations.

`segments/NAME.*`, NAME being 16 random hexadecimal digits, never used again:

    NAME.graph      the engine's own format
    NAME.vectors    NumPy ``.npy``: float32 (nodes, dim), C order; memory-mapped for exact scans and scores where the
                    engine does not show those in its graph
    NAME.rows       NumPy ``.npz``: labels int64 (rows,), nodes int64 (rows,), id_offsets int64 (rows + 1,),
                    id_bytes uint8: the ids' UTF-8 one after the other

Each appears under its name only when whole and on the disk. A generation's manifest, written afterwards, holds their
sizes and SHA-256; a file that no manifest names means nothing and is removed after the next generation is published.
"""

import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from clip_search_server.errors import DataLossError
from clip_search_server.index.engines import Engines
from clip_search_server.index.entries import KINDS, FileEntry, SegmentEntry, Tuning
from clip_search_server.index.files import publish_file, sha256_of
from clip_search_server.index.sealed import IdTable, SealedPart, SealedRows
from clip_search_server.index.segment import Segment, SegmentEngine
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.tail import NEVER
from clip_search_server.index.tuning import is_tuned, no_queries, tune
from clip_search_server.index.types import FloatArray


def path_of(folder: Path, name: str, kind: str) -> Path:
    """Return where a segment's file of one kind lies."""
    return folder / f"{name}.{kind}"


def write_segment(
    folder: Path, rows: SealedRows, segment: Segment, engine: SegmentEngine, tuning: Tuning
) -> SealedPart:
    """Write a new segment durably; return it with its vectors mapped from the file, every row alive.

    Raises:
        OSError: the disk refused; nothing is left of the segment if it could be removed.
    """
    name = secrets.token_hex(8)
    try:
        return _write(folder, name, rows, segment, engine=engine, tuning=tuning)
    except BaseException:
        for kind in KINDS:
            path_of(folder, name, kind).unlink(missing_ok=True)
        raise


def _write(
    folder: Path, name: str, rows: SealedRows, segment: Segment, *, engine: SegmentEngine, tuning: Tuning
) -> SealedPart:

    def write_rows(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez(
                stream,
                labels=rows.labels,
                nodes=rows.nodes,
                id_offsets=rows.ids.offsets,
                id_bytes=np.frombuffer(rows.ids.data, dtype=np.uint8),
            )

    def write_vectors(path: Path) -> None:
        with path.open("wb") as stream:
            np.save(stream, rows.vectors)

    writers = {"graph": segment.save, "vectors": write_vectors, "rows": write_rows}
    files = {}
    for kind in KINDS:
        path = path_of(folder, name, kind)
        publish_file(path, writers[kind])
        files[kind] = FileEntry(path.stat().st_size, sha256_of(path))
    counts = (len(rows.labels), len(rows.vectors))
    entry = SegmentEntry(name, engine.name, dict(engine.parameters), *counts, files, tuning)
    vectors = _vectors_of(folder, name, segment)
    return SealedPart(entry, replace(rows, vectors=vectors), segment, np.full(len(rows.labels), NEVER))


def _vectors_of(folder: Path, name: str, segment: Segment) -> FloatArray:
    """Return a segment's vectors without a copy of their own in memory: the graph's where it shows them, or a map."""
    if segment.vectors is not None:
        return segment.vectors
    mapped: FloatArray = np.load(path_of(folder, name, "vectors"), mmap_mode="r")
    return mapped


def load_segment(
    folder: Path, entry: SegmentEntry, engines: Engines, *, dim: int, settings: IndexSettings
) -> SealedPart:
    """Check a segment's files against their entry and load them; see `load_checked_segment`.

    Raises:
        DataLossError: a file is missing, has another size or digest, or does not hold what the entry says.
        EngineMissingError: the engine that built it cannot be had.
    """
    engine = engines.named(entry.engine)
    # Reading and digesting is most of the time that opening a collection takes.
    with ThreadPoolExecutor(len(KINDS)) as pool:
        for _path in pool.map(lambda kind: checked_file(folder, entry, kind), KINDS):
            pass
    return load_checked_segment(folder, entry, engine, dim=dim, settings=settings)


def load_checked_segment(
    folder: Path, entry: SegmentEntry, engine: SegmentEngine, *, dim: int, settings: IndexSettings
) -> SealedPart:
    """Load a segment whose files have passed their digest checks, with its own engine; every row is taken to be alive.

    A segment that was never tuned, or not for these settings, is tuned now; its next manifest records it.

    Raises:
        DataLossError: a file does not hold what the entry says.
    """
    graph = path_of(folder, entry.name, "graph")
    rows = _load_rows(folder, entry, dim)
    segment = engine.load(graph, node_count=entry.node_count, dim=dim)
    rows = replace(rows, vectors=_vectors_of(folder, entry.name, segment))
    if not is_tuned(entry.tuning, settings):
        entry = replace(entry, tuning=tune(segment, rows.vectors, no_queries(), settings))
    return SealedPart(entry, rows, segment, np.full(entry.row_count, NEVER))


def checked_file(folder: Path, entry: SegmentEntry, kind: str) -> Path:
    """Return the path of a segment's file after reading all of it.

    Raises:
        DataLossError: it is missing, or has another size or digest than its entry says.
    """
    path = path_of(folder, entry.name, kind)
    check_file(path, entry.files[kind])
    return path


def check_file(path: Path, entry: FileEntry) -> None:
    """Raise DataLossError unless the file has the size and SHA-256 that its entry says."""
    try:
        size = path.stat().st_size
        digest = sha256_of(path) if size == entry.bytes else ""
    except OSError as error:
        raise DataLossError(f"{path} cannot be read ({error.strerror})") from error
    if size != entry.bytes:
        raise DataLossError(f"{path} has {size} bytes instead of {entry.bytes}")
    if digest != entry.sha256:
        raise DataLossError(f"{path} fails its SHA-256 check")


def _load_rows(folder: Path, entry: SegmentEntry, dim: int) -> SealedRows:
    vectors = np.load(path_of(folder, entry.name, "vectors"), mmap_mode="r")
    with np.load(path_of(folder, entry.name, "rows")) as arrays:
        ids = IdTable(arrays["id_offsets"], arrays["id_bytes"].tobytes())
        rows = SealedRows(arrays["labels"], arrays["nodes"], ids, vectors)
    if vectors.shape != (entry.node_count, dim) or not len(rows.labels) == len(ids) == entry.row_count:
        raise DataLossError(f"segment {entry.name} does not have the {entry.row_count} rows that its manifest says")
    return rows
