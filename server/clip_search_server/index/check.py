"""Verifies a data folder that no server has open, without changing a byte; knows nothing of mending.

What is looked at:

    catalog      digest and format; every listed collection is there, every alias leads to one
    collections  see check_collection.py
    leftovers    what a crash left behind is noted; the next start removes it
"""

from pathlib import Path

from clip_search_server.errors import DataLossError, UnavailableError
from clip_search_server.index.catalog_file import CatalogContents, catalog_path
from clip_search_server.index.check_collection import CollectionCheck
from clip_search_server.index.damage import Report
from clip_search_server.index.findings import RESTORE, CheckReport
from clip_search_server.index.lock import FolderLock
from clip_search_server.index.offline import collections_of, require_data_folder
from clip_search_server.index.schema import store_path
from clip_search_server.index.settings import IndexSettings


def check_data(data: Path, *, report: Report, settings: IndexSettings | None = None) -> CheckReport:
    """Return everything that is wrong with the data folder.

    Args:
        data: the data folder; but for the files named `lock`, nothing in it is touched.
        report: told how far the check has come.
        settings: how graphs are searched for the measurement of their recall.

    Raises:
        FailedPreconditionError: a server has it open, or a newer release wrote its catalog.
        NotFoundError: there is no data folder.
        UnavailableError: the disk refuses.
    """
    found = CheckReport()
    require_data_folder(data)
    try:
        with FolderLock(data, shared=True):
            contents, folders = _catalog(data, found)
            _check_names(data, contents, folders, found)
            for number, (name, folder) in enumerate(folders.items(), 1):
                report(f"collection {name} ({number} of {len(folders)})")
                check = CollectionCheck(name, folder, settings=settings or IndexSettings(), report=report)
                found.collections.append(check.run())
    except OSError as error:
        raise UnavailableError(f"{data} cannot be checked ({error})") from error
    return found


def _catalog(data: Path, found: CheckReport) -> tuple[CatalogContents, dict[str, Path]]:
    try:
        return collections_of(data)
    except DataLossError as error:
        found.add(
            catalog_path(data),
            error,
            f"{RESTORE}, or run clip-search rebuild --catalog, which finds the collections again but not the aliases",
        )
        return collections_of(data, without_catalog=True)


def _check_names(data: Path, contents: CatalogContents, folders: dict[str, Path], found: CheckReport) -> None:
    for alias, name in contents.aliases.items():
        if name not in folders:
            found.add(f"alias {alias}", f"leads to {name!r}, which is no collection", "set the alias anew")
    for name in folders:
        if name not in contents.collections:
            found.notes.append(f"collection {name} is not in the catalog; the next start of a server adds it")
    root = data / "collections"
    for folder in sorted(root.glob("*")) if root.is_dir() else ():
        if folder.name not in folders and not store_path(folder).exists():
            found.notes.append(f"{folder} is no collection")
    for folder in sorted(root.glob(".*")):
        found.notes.append(f"{folder} was left behind by a crash; the next start of a server removes it")
