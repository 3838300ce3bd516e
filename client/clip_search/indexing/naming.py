"""Which names are pictures', and which names that others chose (in archives and lists) are safe; looks at no file."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

__all__ = [
    "NOT_UTF8",
    "PICTURE_SUFFIXES",
    "RESERVED_ATTRIBUTES",
    "instant_of_ns",
    "is_picture_name",
    "join_id",
    "name_problem",
]

# What a server reads, by the usual names. Of HEIC one that cannot says so, picture by picture.
PICTURE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)

# What a run gives itself, to know a picture again by; neither a list nor an option may say otherwise.
RESERVED_ATTRIBUTES = frozenset({"crc32", "file_name", "member", "modified", "path", "size_bytes", "source"})

NOT_UTF8 = "its name is not valid UTF-8: rename it"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def is_picture_name(name: str) -> bool:
    """Tell whether a name ends as those of pictures do."""
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122  # a Path for each name costs too much


def join_id(source: str, relative: str) -> str:
    """Give the id of a picture; `source` is empty for the root of the file system."""
    return f"{source}/{relative}" if source else relative


def name_problem(name: str) -> str | None:
    """Tell what is wrong with a relative path that somebody else wrote; None where it is safe."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return NOT_UTF8
    if "\0" in name:
        return "its name holds a null character"
    if name.startswith("/") or (len(name) > 1 and name[1] == ":" and name[0].isalpha()):
        return "its name is an absolute path, which is not followed"
    if ".." in PurePosixPath(name).parts:
        return "its name leads out of the folder that it is in (..), which is not followed"
    return None


def instant_of_ns(nanoseconds: int) -> datetime | None:
    """Give a time of the file system as an instant, to the microsecond; None where no calendar has it."""
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return None
