"""Pictures that a list names, with captions and attributes; the list is read row by row and never held as a whole.

A row names a file by its path, which is relative to the folder that the list lies in. A list may come from strangers,
so it reaches nothing but what lies below that folder: no other absolute path, no `..`, and no address on the web.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_search.contents import AttributeValue
from clip_search.indexing.folders import examine_file
from clip_search.indexing.found import FoundPicture, Unusable
from clip_search.indexing.naming import RESERVED_ATTRIBUTES, join_id, name_problem
from clip_search.indexing.tables import TableError, rows_of
from clip_search.indexing.values import ValueKindError, attribute_of, attribute_of_text

__all__ = ["Columns", "ListSource"]

_PATH_COLUMNS = ("path", "file_name", "filename", "file", "filepath", "image", "image_path")
_CAPTION_COLUMNS = ("caption", "text")
_TEXT_SUFFIXES = frozenset({".csv", ".tsv"})
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class Columns:
    """What is told of the columns of lists.

    Args:
        path: which one names the picture; None: the first there is of `path`, `file_name`, `image` and their like.
        caption: which one becomes the item's text; None: the first there is of `caption` and `text`.
        kinds: of columns that are not to be taken for what they look like.
        base: the folder that paths are relative to; None: the one that the list lies in.
    """

    path: str | None = None
    caption: str | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    base: Path | None = None


@dataclass(frozen=True, slots=True)
class ListSource:
    """One list."""

    path: Path  # absolute
    columns: Columns = field(default_factory=Columns)

    @property
    def name(self) -> str:
        """The list's name, with its ending."""
        return self.path.name

    @property
    def origin(self) -> str:
        """The list."""
        return str(self.path)

    @property
    def is_whole(self) -> bool:
        """Always."""
        return True

    def count(self) -> int | None:
        """Count the rows."""
        try:
            return sum(1 for _ in rows_of(self.path))
        except TableError:
            return None

    def pictures(self, bytes_max: int) -> Iterator[FoundPicture | Unusable]:
        """Find the pictures in the list's order; a row that is of no use does not keep the others from being read."""
        del bytes_max  # nothing is read here
        try:
            for number, row in rows_of(self.path):
                place = f"{self.path}: row {number}"
                yield Unusable(place, row, hides_pictures=True) if isinstance(row, str) else self._examine(place, row)
        except TableError as error:
            yield Unusable(self.origin, f"cannot be read further: {error}", hides_pictures=True)

    def _examine(self, place: str, row: Mapping[str, Any]) -> FoundPicture | Unusable:
        column = self.columns.path or next((each for each in _PATH_COLUMNS if each in row), None)
        if column is None or column not in row:
            wanted = column or " or ".join(_PATH_COLUMNS)
            lacking = f"it has no column {wanted} that would name a picture (--path-column says which)"
            return Unusable(place, lacking, hides_pictures=True)
        written = row[column]
        if not isinstance(written, str) or not written.strip():
            return Unusable(place, f"its column {column} names no picture")
        relative, problem = self._below(written.strip())
        if problem is not None:
            return Unusable(f"{place}: {written.strip()}", problem)
        caption = self.columns.caption or next((each for each in _CAPTION_COLUMNS if each in row), None)
        try:
            facts = self._facts(row, {column, caption})
        except ValueKindError as error:
            return Unusable(f"{place}: {relative}", str(error), id=join_id(self.name, relative))
        text = row.get(caption) if caption is not None else None
        facts["source"] = self.origin
        path = f"{str(self._base).rstrip('/')}/{relative}"
        return examine_file(path, join_id(self.name, relative), facts, text if isinstance(text, str) else "")

    @property
    def _base(self) -> Path:
        return self.columns.base or self.path.parent

    def _below(self, written: str) -> tuple[str, str | None]:
        """Give a path as it is below the base folder, or what is wrong with it."""
        if _ADDRESS.match(written):
            return written, "addresses on the web are not fetched: download the pictures and list their files"
        if written.startswith("/"):
            base = f"{str(self._base).rstrip('/')}/"
            if not written.startswith(base):
                return written, f"it does not lie below {self._base} (--base names another folder)"
            written = written.removeprefix(base)
        problem = name_problem(written)
        return (written, problem) if problem else (os.path.normpath(written), None)

    def _facts(self, row: Mapping[str, Any], without: set[str | None]) -> dict[str, AttributeValue]:
        """Give the other columns as attributes; empty cells are none."""
        are_texts = self.path.suffix.lower() in _TEXT_SUFFIXES
        facts: dict[str, AttributeValue] = {}
        for name, value in row.items():
            if name in without or name in RESERVED_ATTRIBUTES or not name or value in ("", None):
                continue
            kind = self.columns.kinds.get(name)
            try:
                found = attribute_of_text(value, kind) if are_texts else attribute_of(value, kind)
            except ValueKindError as error:
                raise ValueKindError(f"column {name}: {error}") from error
            if found is not None:
                facts[name] = found
        return facts
