"""Brings what is indexed in line with the folders, by `search_client`; knows nothing of vectors or servers.

New and moved photos come first and those that are gone are forgotten after: so a moved photo is known when it comes
under its new name, and is not embedded again.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from clip_search_photos.checks import has_files
from clip_search_photos.programs import ask, run

__all__ = ["Census", "forget", "index", "take_census"]

#: The server is a child of this program: one that has ended does not come back.
_RESUME_SECONDS = 5
#: A larger share is a disk that is not mounted, or may be one. A few photos are soon indexed again.
_GONE_SHARE_MAX = 0.2
_FEW = 10
#: Ids in one command line, which has a bound.
_IDS_MAX = 200


@dataclass(frozen=True, slots=True)
class Census:
    """What is there of the photos that are indexed.

    Attributes:
        indexed: how many items come from files of the folders.
        gone: the ids of those whose files are not there.
        moved: how many of these have a namesake that is there, so that it is no disk that is away. Two photos may share
            a name without being one; a mistake costs no more than indexing that photo again.
    """

    indexed: int
    gone: tuple[str, ...]
    moved: int = 0

    @property
    def is_suspicious(self) -> bool:
        """Whether so many are gone that they may come back."""
        lost = len(self.gone) - self.moved
        return lost > max(_FEW, _GONE_SHARE_MAX * (self.indexed - self.moved))


def index(photos: Sequence[Path], address: str) -> None:
    """Index the folders; a photo that cannot be read is reported, and keeps nobody from searching the others.

    Raises:
        ProgramError: the indexing was ended from outside.
    """
    present = [folder for folder in photos if folder.is_dir()]
    for folder in photos:
        if folder not in present:
            click.echo(
                f"photos: {folder} is away; what is indexed of it stays. Run this again once it is back.", err=True
            )
    if not present:
        return
    if not has_files(present):
        click.echo(f"photos: none yet in {', '.join(map(str, present))}")
        return
    click.echo(f"photos: {', '.join(map(str, present))}")
    run("search_client", ["--server", address, "index", "--resume-seconds", str(_RESUME_SECONDS), *map(str, present)])


def forget(photos: Sequence[Path], address: str, *, however_many: bool) -> None:
    """Remove items whose files are gone from the folders, unless they are suspiciously many.

    Raises:
        ProgramError: the server did not answer.
    """
    listing = json.loads(ask("search_client", ["--server", address, "--json", "list", "--all"]))
    census = take_census(listing["items"], photos)
    if not census.gone:
        return
    if census.is_suspicious and not however_many:
        click.echo(
            f"photos: {len(census.gone):,} of {census.indexed:,} are gone from the folders, and are kept: a disk may "
            "not be mounted. If they are gone for good, run this again with --prune.",
            err=True,
        )
        return
    for start in range(0, len(census.gone), _IDS_MAX):
        ask("search_client", ["--server", address, "delete", "--", *census.gone[start : start + _IDS_MAX]])
    click.echo(f"photos: {len(census.gone):,} gone from the folders, and forgotten")


def take_census(items: Iterable[Mapping[str, Any]], folders: Sequence[Path]) -> Census:
    """Look which items' files are there; what is in no folder that is there now is nobody's business.

    Args:
        items: as `search_client --json list` gives them.
        folders: absolute.
    """
    beginnings = tuple(os.path.join(folder, "") for folder in folders if folder.is_dir())  # noqa: PTH118  # with its slash
    gone: list[str] = []
    names_there: Counter[str] = Counter()
    names_gone: Counter[str] = Counter()
    for item in items:
        path = item["attributes"].get("path")
        if isinstance(path, str) and path.startswith(beginnings):
            is_gone = _is_gone(path)
            (names_gone if is_gone else names_there)[path.rpartition("/")[2]] += 1
            if is_gone:
                gone.append(str(item["id"]))
    return Census(len(gone) + names_there.total(), tuple(gone), (names_gone & names_there).total())


def _is_gone(path: str) -> bool:
    """Tell whether a file is certainly not there; one that cannot be looked at may be."""
    try:
        os.stat(path)  # noqa: PTH116  # a Path for each of very many costs too much
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
