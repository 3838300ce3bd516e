"""Reads the rows of lists, one after the other: CSV, TSV, JSON lines and Parquet; knows nothing of pictures.

A row is a mapping from names of columns to values: texts in CSV and TSV, what JSON and Parquet hold in the others.
"""

import csv
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["TABLE_SUFFIXES", "MissingExtraError", "TableError", "check_extra", "rows_of"]

_Row = Mapping[str, Any]

_LINE_CHARACTERS_MAX = 4 << 20
_BATCH_ROWS = 1_000


class TableError(ValueError):
    """A list cannot be read, or not further; the message says where and why."""


class MissingExtraError(Exception):
    """A list of this kind needs an extra that is not installed; the message says how to install it."""


def rows_of(path: Path) -> Iterator[tuple[int, _Row | str]]:
    """Read a list; each row comes with its number, from 1, and a row that cannot be read as the reason instead.

    Raises:
        TableError: nothing further can be read.
        MissingExtraError: reading it needs an extra.
    """
    try:
        yield from TABLE_SUFFIXES[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise TableError(f"it is not UTF-8: {error.reason}") from error
    except OSError as error:
        raise TableError(error.strerror or str(error)) from error


def check_extra(path: Path) -> None:
    """Look whether what this kind of list needs is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError("reading Parquet needs an extra: pip install 'clip-search[parquet]'")


def _separated(path: Path, delimiter: str) -> Iterator[tuple[int, _Row | str]]:
    csv.field_size_limit(_LINE_CHARACTERS_MAX)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            names = next(reader, None)
            if not names:
                raise TableError("its first line must name the columns")
            if len(set(names)) < len(names):
                raise TableError(f"two columns of one name: {', '.join(names)}")
            for number, cells in enumerate((cells for cells in reader if cells), 1):
                if len(cells) == len(names):
                    yield number, dict(zip(names, cells, strict=True))
                else:
                    yield number, f"it has {len(cells)} cells, and there are {len(names)} columns"
        except csv.Error as error:
            raise TableError(f"line {reader.line_num}: {error}") from error


def _comma_separated(path: Path) -> Iterator[tuple[int, _Row | str]]:
    return _separated(path, ",")


def _tab_separated(path: Path) -> Iterator[tuple[int, _Row | str]]:
    return _separated(path, "\t")


def _json_lines(path: Path) -> Iterator[tuple[int, _Row | str]]:
    with path.open(encoding="utf-8-sig") as file:
        number = 0
        while line := file.readline(_LINE_CHARACTERS_MAX):
            if not line.strip():
                continue
            number += 1
            if len(line) == _LINE_CHARACTERS_MAX and not line.endswith("\n"):
                raise TableError(f"row {number} has more than {_LINE_CHARACTERS_MAX:,} characters")
            yield number, _object(line)


def _object(line: str) -> _Row | str:
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return f"it is no JSON: {error}"
    return row if isinstance(row, dict) else "it is no JSON object"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _parquet(path: Path) -> Iterator[tuple[int, _Row | str]]:
    check_extra(path)
    import pyarrow as pa  # noqa: PLC0415  # an extra
    from pyarrow import parquet  # noqa: PLC0415  # an extra

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pa.ArrowException as error:
        raise TableError(f"after row {number}: {error}") from error


#: Endings of names of lists, and what reads them.
TABLE_SUFFIXES: Mapping[str, Callable[[Path], Iterator[tuple[int, _Row | str]]]] = {
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
