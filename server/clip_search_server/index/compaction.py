"""Rewrites a closed store without the room that deleted rows left in it; knows nothing of rows' meaning.

Rows of one age lie together, and as they die one by one their pages are left half empty: SQLite joins neighbours only
once they are emptier than that. Under steady churn a store comes to about one and a half times what it needs, and stays
there.
"""

from pathlib import Path

import apsw

from clip_search_server.index import page_checksums
from clip_search_server.index.damage import Report
from clip_search_server.index.files import publish_file

__all__ = ["compact_store"]


def compact_store(path: Path, report: Report) -> None:
    """Put a compact copy in the place of a store that nobody has open, durably; it is whole at any moment.

    A store that cannot be copied stays as it is, which is reported.

    Raises:
        OSError: the disk refused; the store is as it was.
    """
    log = Path(f"{path}-wal")
    if log.exists() and log.stat().st_size:
        report(f"{path} keeps its size: another program keeps its log")
        return
    before = path.stat().st_size
    try:
        publish_file(path, lambda temporary: _copy(path, temporary))
    except apsw.Error as error:
        report(f"{path} keeps its size ({page_checksums.describe(error)})")
        return
    report(f"the store takes {path.stat().st_size:,} bytes, {before:,} before")


def _copy(path: Path, temporary: Path) -> None:
    temporary.unlink(missing_ok=True)
    connection = page_checksums.connect(path)
    try:
        connection.execute("VACUUM INTO ?", (str(temporary),))
    finally:
        connection.close()
