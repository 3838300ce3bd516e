"""The catalog of a data folder: which collections and aliases there are; knows nothing of what is in a collection.

`DIR/catalog.json` is a checked JSON file (checked_json.py), replaced as a whole by every change. The body:

    format_version
    collections     {NAME: {space_id, dim}}; what a collection's own store says counts for more
    aliases         {ALIAS: NAME}
    deleting        [NAME]; deleted, but the folder may still be there

A collection is a folder `DIR/collections/NAME` with a store. The file makes three things atomic that folders alone do
not: moving an alias, deleting, and noticing that a folder has vanished. data_folder.py tells how the two are brought
together after a crash.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_search_server.errors import DataLossError, InvalidArgumentError
from clip_search_server.index.checked_json import read_checked, write_checked

CATALOG_NAME = "catalog.json"
CATALOG_FORMAT_VERSION = 1
NAME_RULE = "1 to 64 characters: a-z, 0-9, _ and -, the first a letter or a digit"

# Lower case alone, so that two names never meet on a file system that ignores case; neither dots nor slashes, so that
# no name leads out of its folder or looks like a temporary one.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Space:
    """What the vectors of a collection are comparable with, and their components; empty and 0 where unknown."""

    space_id: str
    dim: int


@dataclass(frozen=True, slots=True)
class CatalogContents:
    """What the file says."""

    collections: Mapping[str, Space] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    deleting: frozenset[str] = frozenset()


def is_name(name: str) -> bool:
    """Return whether a collection or alias may be called `name`."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str, field_name: str) -> None:
    """Raise InvalidArgumentError naming the field unless a collection or alias may be called `name`."""
    if not is_name(name):
        raise InvalidArgumentError(field_name, f"{name[:80]!r} cannot be a name; a name has {NAME_RULE}")


def catalog_path(data: Path) -> Path:
    """Return where the catalog of a data folder lies."""
    return data / CATALOG_NAME


def read_catalog(path: Path) -> CatalogContents | None:
    """Return what the file says, None where there is none.

    Raises:
        DataLossError: it is damaged.
        FailedPreconditionError: a newer release wrote it.
    """
    if not path.exists():
        return None
    body = read_checked(path, format_version_max=CATALOG_FORMAT_VERSION)
    try:
        return _contents_from(body)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataLossError(f"{path} is damaged: it lacks what a catalog has ({type(error).__name__})") from error


def write_catalog(path: Path, contents: CatalogContents) -> None:
    """Replace the file durably; raise OSError where the disk refuses, the file then being as `publish_file` says."""
    body = {
        "format_version": CATALOG_FORMAT_VERSION,
        "collections": {
            name: {"space_id": space.space_id, "dim": space.dim} for name, space in sorted(contents.collections.items())
        },
        "aliases": dict(sorted(contents.aliases.items())),
        "deleting": sorted(contents.deleting),
    }
    write_checked(path, body)


def _contents_from(body: dict[str, Any]) -> CatalogContents:
    return CatalogContents(
        {name: Space(space["space_id"], space["dim"]) for name, space in body["collections"].items()},
        dict(body["aliases"]),
        frozenset(body["deleting"]),
    )
