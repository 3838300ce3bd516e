"""Reading a data folder that no server has open, without changing a byte; knows nothing of what the reading is for.

SQLite likes to write when it only reads: it makes the files of its log, and folds the log into the store when the last
connection closes. Here a store without a log is opened as immutable. One with a log, as a crash leaves it, is opened in
exclusive mode, where the log's index stays in memory, and closed without folding. The caller holds the folder's lock.
"""

from pathlib import Path
from urllib.parse import quote

import apsw

from clip_search_server.errors import NotFoundError
from clip_search_server.index import page_checksums
from clip_search_server.index.catalog_file import CatalogContents, catalog_path, is_name, read_catalog
from clip_search_server.index.reader import StoreReader
from clip_search_server.index.schema import store_path


def connect_quietly(path: Path) -> apsw.Connection:
    """Open a store for reading alone, leaving its folder as it is; there may be one such connection at a time.

    Raises:
        apsw.Error: SQLite refused.
    """
    log = Path(f"{path}-wal")
    if not log.exists() or log.stat().st_size == 0:
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        return page_checksums.connect(f"file:{quote(str(path.absolute()))}?immutable=1", flags=flags)
    connection = page_checksums.connect(path, flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.pragma("locking_mode", "exclusive")
        connection.pragma("query_only", 1)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    except BaseException:
        connection.close()
        raise
    return connection


class QuietReader(StoreReader):
    """The checked reads of a store, leaving its folder as it is; for one thread, and one read after the other."""

    def _open_connection(self) -> apsw.Connection:
        return connect_quietly(self._path)


def require_data_folder(data: Path) -> None:
    """Raise NotFoundError where there is no data folder, before anything is made of a mistyped path."""
    if not (data / "collections").is_dir() and not catalog_path(data).exists():
        raise NotFoundError(f"{data} is no data folder; give the one that clip-search serve --data was given")


def collections_of(data: Path, *, without_catalog: bool = False) -> tuple[CatalogContents, dict[str, Path]]:
    """Return the catalog, and the folders of the collections: those listed, and those that only lack a listing.

    Args:
        data: the data folder.
        without_catalog: go by the folders alone, because the catalog is damaged.

    Raises:
        DataLossError: the catalog is damaged.
        FailedPreconditionError: a newer release wrote the catalog.
    """
    root = data / "collections"
    listed = None if without_catalog else read_catalog(catalog_path(data))
    contents = listed or CatalogContents()
    there = {path.name: path for path in root.iterdir() if store_path(path).exists()} if root.is_dir() else {}
    names = set(contents.collections) | {name for name in there if is_name(name) and name not in contents.deleting}
    return contents, {name: root / name for name in sorted(names)}
