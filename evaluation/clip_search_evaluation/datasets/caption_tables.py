"""Reads tables of pictures: CSV or TSV with a header, and JSONL; knows nothing of what pictures hold.

    image,caption,label                   CSV, or TSV in a file ending so; captions, labels or both
    dog.jpg,a dog on a beach,dog
    dog.jpg,a wet dog,dog

    {"image": "dog.jpg", "captions": ["a dog on a beach", "a wet dog"], "label": "dog"}      JSONL: an object a line

The picture stands under `image`, `filepath` (as OpenCLIP's tables name it), `picture` or `path`, relative to the table;
captions under `caption`, `captions` (JSONL), `title` or `text`; the class under `label` or `class`. A caption that
stands at several pictures is one text, for which each of them is right. Other columns are passed over.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from clip_search_evaluation.datasets.dataset import Dataset, DatasetBuilder
from clip_search_evaluation.errors import DataError

__all__ = ["read_csv", "read_jsonl", "read_text"]

_PICTURE_NAMES = ("image", "filepath", "picture", "path")
_CAPTION_NAMES = ("caption", "captions", "title", "text")
_CLASS_NAMES = ("label", "class")


def read_csv(path: Path, folder: Path) -> Dataset:
    """Read a CSV file, or a TSV file by its ending.

    Args:
        path: the table.
        folder: what its pictures are relative to.

    Raises:
        DataError: it is not as described above; the message names the line.
    """
    builder = DatasetBuilder(path, "table of pictures")
    for line, row in _csv_rows(path):
        _add(builder, row, folder, where=f"{path}:{line}")
    return builder.finish()


def read_jsonl(path: Path, folder: Path) -> Dataset:
    """Read a file with a JSON object in each line.

    Args:
        path: the file.
        folder: what its pictures are relative to.

    Raises:
        DataError: it is not as described above; the message names the line.
    """
    builder = DatasetBuilder(path, "JSON lines of pictures")
    for line, text in enumerate(read_text(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path}:{line}: is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f'{path}:{line}: is no JSON object, such as {{"image": "dog.jpg", "caption": "a dog"}}')
        _add(builder, row, folder, where=f"{path}:{line}")
    return builder.finish()


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises:
        DataError: it cannot be read, or is no such text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: is not UTF-8; save the file as UTF-8") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    lines = read_text(path).splitlines(keepends=True)
    table = csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    try:
        header = [name.strip().lower() for name in next(table, [])]
        if _name_in(header, _PICTURE_NAMES) is None:
            raise DataError(f"{path}:1: the header names no column `image`; it has {', '.join(header) or 'nothing'}")
        first = table.line_num + 1
        for row in table:
            if row:
                if len(row) != len(header):
                    raise DataError(f"{path}:{first}: has {len(row)} fields, and the header {len(header)}")
                yield first, dict(zip(header, row, strict=True))
            first = table.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{table.line_num}: is no CSV: {error}") from error


def _add(builder: DatasetBuilder, row: Mapping[str, object], folder: Path, *, where: str) -> None:
    picture_name = _name_in(row, _PICTURE_NAMES)
    if picture_name is None:
        raise DataError(f"{where}: names no `image`")
    picture = _text(row, picture_name, where=where)
    caption_name, class_name = _name_in(row, _CAPTION_NAMES), _name_in(row, _CLASS_NAMES)
    captions = () if caption_name is None else _texts(row, caption_name, where=where)
    label = "" if class_name is None else _text(row, class_name, where=where)
    builder.add(folder / picture, captions, label, where=where)


def _name_in(row: Mapping[str, object] | list[str], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in row), None)


def _texts(row: Mapping[str, object], name: str, *, where: str) -> list[str]:
    value = row[name]
    if not isinstance(value, list):
        return [_text(row, name, where=where)]
    return [_text({name: each}, name, where=where) for each in value]


def _text(row: Mapping[str, object], name: str, *, where: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: `{name}` must be a text that is not empty, and is {value!r}")
    return value.strip()
