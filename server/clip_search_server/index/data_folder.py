"""The data folder of a server: its collections' folders and their catalog, whole after any crash.

Knows nothing of what is in a collection beyond its identity, nor of who uses it. One thread at a time.

    DIR/lock                            held by the process that uses the folder
    DIR/catalog.json                    names, spaces and aliases (format: catalog_file.py)
    DIR/collections/NAME/               a collection (format: `index/__init__.py`)
    DIR/collections/.creating-NAME/     one being made
    DIR/collections/.deleted-NAME-HEX/  one being removed

Creating: the folder is made under its temporary name, renamed, and then listed in the catalog. Deleting: the catalog
drops the name and notes it under `deleting`, which is the moment from which it is gone; then the folder is renamed
aside and removed, and the note goes too. Opening brings folders and catalog together: temporary folders are removed,
deletions finished, folders that are not listed are listed (a crash just before; a folder that was copied here; an older
release), and what is listed without a folder stays listed, as a loss to report.
"""

import contextlib
import dataclasses
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from clip_search_server.errors import ClipSearchError, DataLossError, UnavailableError
from clip_search_server.index.catalog_file import (
    CatalogContents,
    Space,
    catalog_path,
    is_name,
    read_catalog,
    write_catalog,
)
from clip_search_server.index.damage import Report
from clip_search_server.index.files import (
    TEMPORARY_SUFFIX,
    make_folder,
    publish_folder,
    remove_temporaries,
    sync_folder,
)
from clip_search_server.index.lock import FolderLock
from clip_search_server.index.schema import check_store, create_store, read_identity, store_path

_CREATING = ".creating-"
_DELETED = ".deleted-"


class DataFolder:
    """One data folder, locked for this object until `close`.

    Attributes:
        contents: collections and aliases as the disk has them.
        is_new: whether nothing was there yet.

    Raises:
        FailedPreconditionError: another process uses it, or a newer release wrote its catalog; nothing was changed.
        DataLossError: the catalog is damaged; nothing was changed.
        UnavailableError: the disk refuses.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self.path = path
        self._report = report
        self._collections = path / "collections"
        try:
            make_folder(path)
            self._lock = FolderLock(path)
            try:
                listed = _read(path)
                make_folder(self._collections)
                # Names that a process left behind when it was killed must outlive what is now concluded from them.
                sync_folder(self._collections)
                self.contents = self._recovered(listed or CatalogContents())
                self.is_new = listed is None and not self.contents.collections
                self._listed = listed
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise UnavailableError(f"{path} cannot be opened ({error})") from error

    def note_findings(self) -> None:
        """Write to the catalog what opening found in the folders; until then the catalog is untouched.

        Raises:
            UnavailableError: the disk refused.
        """
        if self.contents != self._listed and not self.is_new:
            try:
                self._write(self.contents)
            except OSError as error:
                raise UnavailableError(f"{catalog_path(self.path)} could not be written ({error})") from error

    def folder_of(self, name: str) -> Path:
        """Return the folder of a listed collection.

        Raises:
            DataLossError: it has vanished.
        """
        folder = self._collections / name
        if not store_path(folder).exists():
            raise DataLossError(
                f"{store_path(folder)} is missing although the catalog lists {name!r}; "
                "restore it from a backup, or delete the collection"
            )
        return folder

    def check_space(self, name: str, space: Space) -> None:
        """Check, without changing a byte, that a listed collection that is not open can be read and is of this space.

        Raises:
            SpaceMismatchError: it is of another.
            FailedPreconditionError: a newer release wrote it.
            DataLossError: it is damaged or has vanished.
        """
        check_store(store_path(self.folder_of(name)), space_id=space.space_id, dim=space.dim)

    def create(self, name: str, space: Space) -> None:
        """Make an empty collection, whole or not at all; the name is valid and free.

        Raises:
            UnavailableError: the disk refused; the collection does not exist.
        """
        folder, temporary = self._collections / name, self._collections / f"{_CREATING}{name}"
        try:
            if folder.exists():
                raise FileExistsError(f"{folder} is there, although no collection of this name is listed")
            shutil.rmtree(temporary, ignore_errors=True)
            make_folder(temporary)
            create_store(store_path(temporary), space_id=space.space_id, dim=space.dim)
            publish_folder(temporary, folder)
            try:
                self._write(dataclasses.replace(self.contents, collections={**self.contents.collections, name: space}))
            except OSError:
                self._remove(name)
                raise
        except (OSError, UnavailableError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise UnavailableError(f"collection {name!r} could not be created ({error})") from error

    def begin_deletion(self, name: str) -> None:
        """Take a collection off the catalog: from now on it is gone, whatever happens. Its files are still there.

        Raises:
            UnavailableError: the disk refused; the collection is as it was.
        """
        rest = {listed: space for listed, space in self.contents.collections.items() if listed != name}
        deleting = self.contents.deleting | {name}
        try:
            self._write(dataclasses.replace(self.contents, collections=rest, deleting=deleting))
        except OSError as error:
            raise UnavailableError(f"collection {name!r} could not be deleted ({error})") from error

    def finish_deletion(self, name: str) -> None:
        """Remove the files of a collection that `begin_deletion` took off the catalog; nobody may have it open.

        What the disk refuses to remove is reported and removed at the next opening.
        """
        try:
            self._remove(name)
            self._write(dataclasses.replace(self.contents, deleting=self.contents.deleting - {name}))
        except OSError as error:
            self._report(f"the files of the deleted collection {name!r} could not all be removed ({error})")

    def set_aliases(self, aliases: Mapping[str, str]) -> None:
        """Replace all aliases at once.

        Raises:
            UnavailableError: the disk refused; the aliases are as they were.
        """
        try:
            self._write(dataclasses.replace(self.contents, aliases=dict(aliases)))
        except OSError as error:
            raise UnavailableError(f"the aliases could not be changed ({error})") from error

    def close(self) -> None:
        """Let the folder go; harmless when repeated."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, contents: CatalogContents) -> None:
        try:
            write_catalog(catalog_path(self.path), contents)
        except OSError:
            self._put_back()
            raise
        self.contents = self._listed = contents

    def _put_back(self) -> None:
        """Have the file say what it said before a change that failed.

        Where only the sync of the name failed the new file is there. Were it left, a restart would carry out a deletion
        that was refused, on a collection that has been written to since.
        """
        with contextlib.suppress(OSError):
            if self._listed is None:
                catalog_path(self.path).unlink(missing_ok=True)
            else:
                write_catalog(catalog_path(self.path), self._listed)

    def _remove(self, name: str) -> None:
        folder = self._collections / name
        aside = self._collections / f"{_DELETED}{name}-{secrets.token_hex(4)}"
        if folder.exists():
            folder.rename(aside)
            sync_folder(self._collections)
            shutil.rmtree(aside)

    def _recovered(self, listed: CatalogContents) -> CatalogContents:
        """Return what the catalog should say, given the folders that are there."""
        remove_temporaries(self.path)
        self._remove_leftovers(listed.deleting)
        collections = dict(listed.collections)
        for folder in sorted(self._collections.iterdir()):
            name = folder.name
            if name in collections or not folder.is_dir():
                continue
            if not is_name(name) or name in listed.aliases:
                self._report(f"{folder} is left alone: its name is an alias or cannot be a collection's")
            elif _was_used(folder):
                self._report(f"collection {name!r} was not in the catalog and is added to it")
                collections[name] = _space_of(folder)
            elif _is_empty_shell(folder):
                self._report(f"{folder} holds nothing and is removed")
                shutil.rmtree(folder)
            else:
                self._report(f"{folder} is left alone: it holds files, but no collection")
        return CatalogContents(collections, listed.aliases)

    def _remove_leftovers(self, deleting: frozenset[str]) -> None:
        for name in sorted(deleting):
            if (self._collections / name).exists():
                self._report(f"finishing the deletion of collection {name!r}")
                self._remove(name)
        for folder in sorted(self._collections.glob(".*")):
            if folder.name.startswith((_CREATING, _DELETED)):
                self._report(f"removing {folder}, which an interrupted creation or deletion left behind")
                shutil.rmtree(folder)


def _read(path: Path) -> CatalogContents | None:
    try:
        return read_catalog(catalog_path(path))
    except DataLossError as error:
        raise DataLossError(
            f"{error}; restore it from a backup, or run clip-search rebuild --catalog, which finds the collections "
            "again but not the aliases"
        ) from error


def _was_used(folder: Path) -> bool:
    """Return whether a collection has ever been in this folder, even if its store is gone."""
    store = store_path(folder)
    return store.exists() or Path(f"{store}-wal").exists() or any(folder.glob("generations/*.json"))


def _is_empty_shell(folder: Path) -> bool:
    """Return whether all there is comes from a collection's opening that was interrupted before there was a store."""
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return all(path.name == "lock" or path.name.endswith(TEMPORARY_SUFFIX) for path in files)


def _space_of(folder: Path) -> Space:
    try:
        identity = read_identity(store_path(folder))
    except (ClipSearchError, OSError):
        return Space("", 0)  # Opening it will tell what is wrong.
    return Space(identity.space_id, identity.dim)
