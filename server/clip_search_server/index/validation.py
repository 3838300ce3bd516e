"""Checks of what callers hand in, each naming the field; knows nothing of storage."""

import dataclasses
from collections.abc import Sequence

from clip_search_server.errors import InvalidArgumentError
from clip_search_server.index.attributes import check_attributes, check_text
from clip_search_server.index.scoring import unit_vector
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.types import Record


def checked_record(record: Record, *, dim: int, settings: IndexSettings) -> Record | InvalidArgumentError:
    """Return the record with its vector made unit length, or what is wrong with it."""
    try:
        check_id(record.id, "id", settings)
        for field, value, bytes_max in (
            ("thumbnail", record.thumbnail or b"", settings.thumbnail_bytes_max),
            ("content_digest", record.content_digest, settings.content_digest_bytes_max),
        ):
            if len(value) > bytes_max:
                return InvalidArgumentError(field, f"has {len(value)} bytes; at most {bytes_max} are allowed")
        check_attributes(record.attributes, count_max=settings.attributes_max, bytes_max=settings.attributes_bytes_max)
        if len(record.text) > settings.text_characters_max:
            description = f"has {len(record.text)} characters; at most {settings.text_characters_max} are allowed"
            return InvalidArgumentError("text", description)
        check_text(record.text, "text")
        if record.vector is None:
            return record
        return dataclasses.replace(record, vector=unit_vector(record.vector, dim, "vector"))
    except InvalidArgumentError as error:
        return error


def check_id(item_id: str, field: str, settings: IndexSettings) -> None:
    """Raise InvalidArgumentError unless the id is 1 to `id_bytes_max` bytes of UTF-8."""
    check_text(item_id, field)
    size = len(item_id.encode())
    if size == 0:
        raise InvalidArgumentError(field, "must not be empty")
    if size > settings.id_bytes_max:
        raise InvalidArgumentError(field, f"has {size} bytes; at most {settings.id_bytes_max} are allowed")


def check_ids(item_ids: Sequence[str], settings: IndexSettings) -> None:
    """Raise InvalidArgumentError where there are too many ids or one of them cannot be an id."""
    check_count(len(item_ids), "ids", settings.records_max)
    for at, item_id in enumerate(item_ids):
        check_id(item_id, f"ids[{at}]", settings)


def check_count(count: int, field: str, count_max: int) -> None:
    """Raise InvalidArgumentError where a call holds more than it may."""
    if count > count_max:
        raise InvalidArgumentError(field, f"holds {count} entries; at most {count_max} are allowed in one call")


def check_window(limit: int, offset: int, window_max: int) -> int:
    """Return offset + limit, or raise InvalidArgumentError."""
    if limit < 1:
        raise InvalidArgumentError("limit", f"must be at least 1, not {limit}")
    if offset < 0:
        raise InvalidArgumentError("offset", f"must not be negative, not {offset}")
    if offset + limit > window_max:
        field = "limit" if limit > window_max else "offset"
        raise InvalidArgumentError(field, f"offset + limit is {offset + limit}; at most {window_max} is allowed")
    return offset + limit
