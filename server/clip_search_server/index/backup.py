"""Backups: whole copies of a data folder; knows nothing of bringing them back (restore.py), searching or serving.

`FOLDER/NNNNNNNN-YYYYMMDDTHHMMSSZ/` is one backup, NNNNNNNN counting up. It appears whole or not at all:

    backup.json                      checked JSON file (checked_json.py), see below
    catalog.json                     names, spaces and aliases
    collections/NAME/store.sqlite3   a copy made by SQLite of one committed state, log included
    collections/NAME/segments/*      the files of the newest whole generation
    collections/NAME/generations/*   that generation's manifest
    collections/NAME/images.sqlite3  a copy of the kept pictures, where there are any, made after the store's

The body of backup.json:

    format_version, created          the latter in ISO 8601, UTC
    collections                      {NAME: {collection_id, sequence, items}}, as the copied store says
    files                            {PATH: {bytes, sha256}}, every file but backup.json itself

The generation is read before the store is copied, so the store is never behind it, also while a server goes on writing.
Files of segments are opened before any is copied: what is open stays readable when the server removes its name. A page
of the store that fails its checksum ends the backup; damaged segments are left out, since they can be built again, and
so are damaged pictures, since all else does without.
"""

import contextlib
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast

import apsw

from clip_search_server.errors import DataLossError, FailedPreconditionError, UnavailableError
from clip_search_server.index import page_checksums
from clip_search_server.index.catalog_file import CatalogContents, Space, catalog_path, write_catalog
from clip_search_server.index.checked_json import write_checked
from clip_search_server.index.damage import Report
from clip_search_server.index.entries import KINDS, FileEntry
from clip_search_server.index.files import make_folder, publish_folder, sha256_of, sync_folder, sync_tree
from clip_search_server.index.generations import Generations, Manifest
from clip_search_server.index.image_file import images_path
from clip_search_server.index.lock import FolderLock
from clip_search_server.index.offline import collections_of, connect_quietly, require_data_folder
from clip_search_server.index.schema import Identity, read_identity, store_path
from clip_search_server.index.segment_files import path_of

BACKUP_FORMAT_VERSION = 1
MANIFEST_NAME = "backup.json"

_PARTIAL = ".partial-"
_NAME = re.compile(r"(\d{8})-\d{8}T\d{6}Z")
_PAGES_AT_ONCE = 4096
_CHUNK_BYTES = 1 << 20
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Backup:
    """A published backup: its folder, its collections with their items, and its size."""

    path: Path
    items: dict[str, int]
    file_count: int
    file_bytes: int


def back_up(data: Path, to: Path, *, report: Report, keep: int | None = None, online: bool = False) -> Backup:
    """Copy the data folder into a new backup below `to`, then remove all but the newest `keep` backups there.

    Args:
        data: the data folder; nothing in it changes.
        to: where backups are kept; made if missing.
        report: told of progress and of what is left out.
        keep: how many backups to keep; None keeps all.
        online: whether a server may be using the folder meanwhile. It must be another process: SQLite's locks do not
            tell users of one process apart.

    Raises:
        FailedPreconditionError: the folder is in use and `online` is not set, or `to` lies inside it.
        DataLossError: a store or the catalog is damaged; `check` tells more.
        UnavailableError: the disk refuses; no backup was made.
    """
    if to.resolve().is_relative_to(data.resolve()):
        raise FailedPreconditionError(f"{to} lies inside {data}; keep backups elsewhere, best on another disk")
    try:
        with contextlib.ExitStack() as locks:
            require_data_folder(data)
            if not online:
                locks.enter_context(FolderLock(data, shared=True))
            contents, folders = collections_of(data)
            make_folder(to)
            locks.enter_context(FolderLock(to))
            for leftover in to.glob(f"{_PARTIAL}*"):
                report(f"removing {leftover}, which an interrupted backup left behind")
                shutil.rmtree(leftover)
            backup = _make(contents, folders, to, report, online=online)
            if keep is not None:
                _keep_newest(to, keep, report)
            return backup
    except OSError as error:
        raise UnavailableError(f"{data} could not be backed up to {to} ({error})") from error


def _make(contents: CatalogContents, folders: dict[str, Path], to: Path, report: Report, *, online: bool) -> Backup:
    created = datetime.now(UTC)
    numbers = [int(match[1]) for path in backups_in(to) if (match := _NAME.fullmatch(path.name))]
    name = f"{max(numbers, default=0) + 1:08d}-{created:%Y%m%dT%H%M%SZ}"
    partial = to / f"{_PARTIAL}{name}"
    try:
        collections: dict[str, dict[str, str | int]] = {}
        spaces: dict[str, Space] = {}
        for number, (collection, folder) in enumerate(folders.items(), 1):
            report(f"collection {collection} ({number} of {len(folders)})")
            identity = _identity_of(folder, collection, tries=_TRIES if online else 1)
            spaces[collection] = Space(identity.space_id, identity.dim)
            copy = _CollectionCopy(folder, partial / "collections" / collection, identity, report, online=online)
            collections[collection] = {"collection_id": identity.collection_id, **copy.run()}
        make_folder(partial)
        write_catalog(catalog_path(partial), CatalogContents(spaces, contents.aliases))
        files = {
            str(path.relative_to(partial)): FileEntry(path.stat().st_size, sha256_of(path))
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        body = {
            "format_version": BACKUP_FORMAT_VERSION,
            "created": created.isoformat(),
            "collections": collections,
            "files": {path: asdict(entry) for path, entry in files.items()},
        }
        write_checked(partial / MANIFEST_NAME, body)
        sync_tree(partial)
        publish_folder(partial, to / name)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    items = {collection: int(figures["items"]) for collection, figures in collections.items()}
    return Backup(to / name, items, len(files), sum(entry.bytes for entry in files.values()))


class _CollectionCopy:
    """The copy of one collection."""

    def __init__(self, source: Path, target: Path, identity: Identity, report: Report, *, online: bool) -> None:
        self._source = source
        self._target = target
        self._generations = Generations(source, identity)
        self._report = report
        self._online = online

    def run(self) -> dict[str, int]:
        """Copy the newest whole generation, then the store; return the store's sequence and its items."""
        with contextlib.ExitStack() as locks:
            if not self._online:
                locks.enter_context(FolderLock(self._source, shared=True))
            make_folder(self._target)
            self._copy_generation()
            figures = self._copy_store()
            # Afterwards, because pictures come before their items: the copy lacks none but of items deleted meanwhile.
            if images_path(self._source).exists():
                self._copy_images()
            return figures

    def _copy_generation(self) -> None:
        for _ in range(_TRIES):
            with contextlib.ExitStack() as opened:
                try:
                    chosen = self._open_newest(opened)
                except FileNotFoundError:
                    continue  # A newer generation has just been published, and files of older ones removed.
                if chosen is not None:
                    self._copy_segments(*chosen)
                return
        self._report(f"{self._source}: segments change too quickly and are left out; restoring builds them again")

    def _open_newest(self, opened: contextlib.ExitStack) -> tuple[Manifest, dict[Path, IO[bytes]]] | None:
        for number in self._generations.numbers():
            try:
                manifest = self._generations.read(number)
            except DataLossError as error:
                self._report(f"{error}; trying the generation before")
                continue
            paths = [
                path_of(self._generations.segment_folder, entry.name, kind)
                for entry in manifest.segments
                for kind in KINDS
            ]
            return manifest, {path: opened.enter_context(path.open("rb")) for path in paths}
        return None

    def _copy_segments(self, manifest: Manifest, streams: dict[Path, IO[bytes]]) -> None:
        folder = self._target / "segments"
        make_folder(folder)
        for entry in manifest.segments:
            for kind in KINDS:
                path = path_of(self._generations.segment_folder, entry.name, kind)
                if copy_stream(streams[path], folder / path.name) != entry.files[kind]:
                    self._report(f"{path} fails its SHA-256 check; segments are left out, restoring builds them again")
                    shutil.rmtree(folder)
                    return
        target = Generations(self._target, self._generations.identity)
        make_folder(target.folder)
        shutil.copyfile(self._generations.path(manifest.number), target.path(manifest.number))

    def _copy_store(self) -> dict[str, int]:
        return self._copy_database(store_path(self._source), store_path(self._target), _figures_of)

    def _copy_images(self) -> None:
        try:
            self._copy_database(images_path(self._source), images_path(self._target))
        except DataLossError as error:
            self._report(f"{error}; the kept pictures are left out")
            images_path(self._target).unlink(missing_ok=True)

    def _copy_database(
        self, path: Path, target: Path, read: Callable[[apsw.Connection], dict[str, int]] = lambda _: {}
    ) -> dict[str, int]:
        """Copy one committed state of a SQLite file, and return what `read` finds in it."""
        try:
            source = page_checksums.connect(path) if self._online else connect_quietly(path)
            try:
                source.set_busy_timeout(5000)
                source.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                source.execute("BEGIN")  # All pages are of one moment, whatever a server writes meanwhile.
                figures = read(source)
                with _new_database(target) as copy, copy.backup("main", source, "main") as work:
                    while not work.done:
                        work.step(_PAGES_AT_ONCE)
                        self._report(f"{path}: {work.page_count - work.remaining} of {work.page_count} pages")
            finally:
                source.close()
        except apsw.Error as error:
            if page_checksums.is_damage(error):
                reason = page_checksums.describe(error)
                raise DataLossError(f"{path} is damaged ({reason}); run clip-search check") from error
            raise UnavailableError(f"{path} could not be copied ({error})") from error
        return figures


@contextlib.contextmanager
def _new_database(path: Path) -> Iterator[apsw.Connection]:
    connection = page_checksums.connect(path)
    try:
        connection.pragma("journal_mode", "off")
        connection.pragma("synchronous", "off")  # Every file is synced once all are there.
        yield connection
    finally:
        connection.close()


def _figures_of(connection: apsw.Connection) -> dict[str, int]:
    sequence = cast("int", connection.execute("SELECT sequence FROM counters").get)
    return {"sequence": sequence, "items": cast("int", connection.execute("SELECT count(*) FROM items").get)}


def _identity_of(folder: Path, name: str, *, tries: int) -> Identity:
    """Read it, more than once where a server may be writing the first page just now."""
    try:
        return read_identity(store_path(folder), older=True)
    except DataLossError:
        if tries == 1:
            raise
        return _identity_of(folder, name, tries=tries - 1)
    except FileNotFoundError as error:
        raise DataLossError(
            f"{store_path(folder)} is missing although the catalog lists {name!r}; "
            "restore it, or delete the collection, before making a backup"
        ) from error


def copy_stream(stream: IO[bytes], target: Path) -> FileEntry:
    """Copy a stream and return what was copied."""
    digest = hashlib.sha256()
    size = 0
    with target.open("wb") as copy:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            copy.write(chunk)
            size += len(chunk)
    return FileEntry(size, digest.hexdigest())


def backups_in(folder: Path) -> list[Path]:
    """Return the published backups in a folder, oldest first."""
    found = (path for path in folder.glob("*") if _NAME.fullmatch(path.name) and (path / MANIFEST_NAME).exists())
    return sorted(found, key=lambda path: path.name)


def _keep_newest(to: Path, keep: int, report: Report) -> None:
    for path in backups_in(to)[:-keep]:
        report(f"removing the old backup {path}")
        aside = path.with_name(f"{_PARTIAL}{path.name}")
        path.rename(aside)
        sync_folder(to)  # From here on it is a leftover, and never, even after a power cut, a backup that lacks files.
        shutil.rmtree(aside)
