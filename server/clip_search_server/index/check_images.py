"""Verifies the kept pictures of one closed collection without changing a byte; knows nothing of its items."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import apsw

from clip_search_server.errors import ClipSearchError, DataLossError
from clip_search_server.index import page_checksums
from clip_search_server.index.damage import Report
from clip_search_server.index.findings import CollectionReport
from clip_search_server.index.image_file import check_header, checked_image, images_path, totals_of
from clip_search_server.index.offline import connect_quietly

__all__ = ["check_images"]

_REMEDY = "store the items again with their pictures, restore a backup, or remove the file: nothing else depends on it"

_PROBLEMS_OF_SQLITE_MAX = 20
_PAGES_NAMED_MAX = 20
_ROWS_PER_REPORT = 1_000
_STRAYS = (
    ("SELECT count(*) FROM images WHERE digest NOT IN (SELECT digest FROM holders)", "pictures belong to no item"),
    ("SELECT count(*) FROM holders WHERE digest NOT IN (SELECT digest FROM images)", "items lack their picture"),
)


def check_images(folder: Path, result: CollectionReport, report: Report) -> None:
    """Add to `result` what is wrong with a collection's kept pictures, each finding naming the file."""
    path = images_path(folder)
    if not path.exists():
        return
    report("kept pictures")
    try:
        check_header(path)
        connection = connect_quietly(path)
    except (ClipSearchError, OSError, apsw.Error) as error:
        result.add(path, error, _REMEDY)
        return
    try:
        for problem in (*_file_problems(connection, path), *_row_problems(connection, report)):
            result.add(path, problem, _REMEDY)
    except (apsw.Error, TypeError) as error:
        result.add(path, page_checksums.describe(error), _REMEDY)
    finally:
        connection.close()


def _file_problems(connection: apsw.Connection, path: Path) -> Iterator[str]:
    statement = f"PRAGMA integrity_check({_PROBLEMS_OF_SQLITE_MAX})"
    try:
        problems = connection.execute(statement).fetchall()
    except apsw.IOError as error:
        if not page_checksums.is_damage(error):
            raise
        pages = page_checksums.damaged_pages(connection, path)
        yield f"pages fail their checksum: {', '.join(map(str, pages[:_PAGES_NAMED_MAX])) or 'in the log'}"
        with page_checksums.unchecked(connection):
            problems = connection.execute(statement).fetchall()
    for (problem,) in problems:
        if problem != "ok":
            yield f"SQLite finds: {problem}"


def _row_problems(connection: apsw.Connection, report: Report) -> Iterator[str]:
    """Look at every row, whatever its page's checksum says: pictures carry their own."""
    with page_checksums.unchecked(connection):
        numbers = [cast("int", number) for (number,) in connection.execute("SELECT number FROM images ORDER BY number")]
        size_bytes = 0
        for at, number in enumerate(numbers):
            if at % _ROWS_PER_REPORT == 0:
                report(f"kept pictures: {at:,} of {len(numbers):,}")
            row = connection.execute("SELECT digest, crc, image FROM images WHERE number = ?", (number,)).fetchone()
            digest, crc, image = cast("tuple[bytes, int, bytes]", row)
            size_bytes += len(image)
            try:
                checked_image(digest, crc, image)
            except DataLossError as error:
                yield f"picture {number}: {error}"
        if totals_of(connection) != (len(numbers), size_bytes):
            yield "the totals do not agree with the pictures"
        for question, sentence in _STRAYS:
            count = connection.execute(question).get
            if count:
                yield f"{count} {sentence}"
