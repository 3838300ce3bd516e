"""Processes that change a catalog, or make backups, until they are killed, and say what was acknowledged.

    python -m tests.faults.catalog_victim      a nursery (nursery.py) of victims; their words: WHAT FOLDER SEED

WHAT is `catalog` (FOLDER is a data folder) or `backup` (FOLDER holds `data`, and `backups` is made beside it). Line on
stdout, beside the nursery's: "did N" after the N-th change.
"""

import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from clip_search_server.index import DataFolder, Space
from clip_search_server.index.backup import back_up
from clip_search_server.index.catalog_file import CatalogContents
from tests.faults.nursery import nurse, say

SPACE = Space("space-of-the-victims", 16)
CHANGES = 30  # a round; the victim then waits to be killed

_NAMES = ("one", "two", "three", "four", "five", "six")
_ALIASES = ("current", "next", "old")

# What a change does to the folder, and what the catalog is afterwards.
Change = tuple[Callable[[DataFolder], None], CatalogContents]


def changes(seed: int, contents: CatalogContents) -> Iterator[Change]:
    """Foretell the changes that a victim makes to a catalog."""
    chance = random.Random(seed)
    for _ in range(CHANGES):
        change = _change(chance, contents)
        contents = change[1]
        yield change


def _change(chance: random.Random, contents: CatalogContents) -> Change:
    name = chance.choice(_NAMES)
    kind = chance.random()
    if kind < 0.4 and contents.collections:
        aliases = dict(contents.aliases)
        aliases[chance.choice(_ALIASES)] = chance.choice(sorted(contents.collections))
        return lambda folder: folder.set_aliases(aliases), replace(contents, aliases=aliases)
    if name not in contents.collections:
        after = replace(contents, collections={**contents.collections, name: SPACE})
        return lambda folder: folder.create(name, SPACE), after
    if name in contents.aliases.values():
        aliases = {alias: target for alias, target in contents.aliases.items() if target != name}
        return lambda folder: folder.set_aliases(aliases), replace(contents, aliases=aliases)

    def delete(folder: DataFolder) -> None:
        folder.begin_deletion(name)
        folder.finish_deletion(name)

    rest = {listed: space for listed, space in contents.collections.items() if listed != name}
    return delete, replace(contents, collections=rest)


def _ignore(_line: str) -> None:
    return


def live(what: str, folder: Path, seed: int) -> None:
    """Make the changes of one round."""
    if what == "catalog":
        with DataFolder(folder, _ignore) as data:
            data.note_findings()
            for number, (make, _after) in enumerate(changes(seed, data.contents), 1):
                make(data)
                say(f"did {number}")
    else:
        for number in range(1, CHANGES + 1):
            back_up(folder / "data", folder / "backups", report=_ignore, keep=3)
            say(f"did {number}")
    signal.pause()


if __name__ == "__main__":
    nurse(lambda words: live(words[0], Path(words[1]), int(words[2])))
