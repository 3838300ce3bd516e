"""From the paths that a person gives to sources: folders, archives, lists and single pictures, told by their names."""

import os
from collections.abc import Iterable
from pathlib import Path

from clip_search.indexing.folders import FolderSource
from clip_search.indexing.found import Source
from clip_search.indexing.lists import Columns, ListSource
from clip_search.indexing.tables import TABLE_SUFFIXES, check_extra
from clip_search.indexing.tars import TAR_SUFFIXES, TarSource
from clip_search.indexing.zips import ZipSource

__all__ = ["SourceConflictError", "sources_of"]


class SourceConflictError(ValueError):
    """Two sources would give the same ids to different pictures; the message says which and what to do."""


def sources_of(paths: Iterable[Path], columns: Columns | None = None) -> tuple[Source, ...]:
    """Give the sources of files and folders, each once, in their order.

    Args:
        paths: which exist.
        columns: what is told of the columns of lists.

    Raises:
        SourceConflictError: two different ones have the same name.
        MissingExtraError: a list needs an extra that is not installed.
    """
    sources: dict[tuple[str, str | None], Source] = {}
    origins_by_name: dict[str, str] = {}
    for path in paths:
        # Unlike resolve(), it keeps the names as they were typed.
        source = _source_of(Path(os.path.abspath(path)), columns or Columns())  # noqa: PTH100
        other = origins_by_name.setdefault(source.name, source.origin)
        if other != source.origin:
            raise SourceConflictError(
                f"{other} and {source.origin} have the same name, so that their pictures would share ids: "
                "rename one of them, or index a folder that holds both"
            )
        sources[source.origin, source.file if isinstance(source, FolderSource) else None] = source
    return tuple(sources.values())


def _source_of(path: Path, columns: Columns) -> Source:
    if path.is_dir():
        return FolderSource(path)
    if not path.is_file():  # opening a pipe would wait for ever
        return FolderSource(path.parent, path.name)
    name = path.name.lower()
    if name.endswith(".zip"):
        return ZipSource(path)
    for suffix, compression in TAR_SUFFIXES.items():
        if name.endswith(suffix):
            return TarSource(path, compression)
    if path.suffix.lower() in TABLE_SUFFIXES:
        check_extra(path)
        return ListSource(path, columns)
    return FolderSource(path.parent, path.name)
