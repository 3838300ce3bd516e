"""Damage to the files of a collection, and what must be true of what is then served; knows nothing of crashes.

Bits flip, sectors turn to zeros, ends are cut off.
"""

import os
import random
import shutil
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from clip_search_server.errors import DataLossError
from tests.faults.index_checks import assert_answers_are_exact
from tests.faults.index_history import Items, items_of
from tests.faults.power_cut_disk import SECTOR_BYTES, Change, Cut, Disk, Synced, Written
from tests.faults.power_cut_history import FOLDER, History, check, open_collection

Harm = Callable[[Path, random.Random], None]

KEPT_ALL = Cut("all", "all")


def flip_bit(path: Path, chance: random.Random) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def zero_sector(path: Path, chance: random.Random) -> None:
    """Fill one sector of a file with zeros, one that held anything else."""
    content = bytearray(path.read_bytes())
    starts = [at for at in range(0, len(content), SECTOR_BYTES) if any(content[at : at + SECTOR_BYTES])]
    at = chance.choice(starts)
    end = min(at + SECTOR_BYTES, len(content))
    content[at:end] = bytes(end - at)
    path.write_bytes(content)


def cut_off(path: Path, chance: random.Random) -> None:
    """Take away the end of a file, be it all of it or a single byte."""
    size = path.stat().st_size
    os.truncate(path, chance.choice([0, size - 1, size // 2, chance.randrange(size)]))


HARMS = (flip_bit, zero_sector, cut_off)


def flip_bit_of_next_label(path: Path, _chance: random.Random) -> None:
    """Make a number of a manifest another number, which nothing but the manifest's own digest can tell."""
    content = bytearray(path.read_bytes())
    name = b'"next_label": '
    content[content.index(name) + len(name)] ^= 1
    path.write_bytes(content)


def harms_that_pass(
    folder: Path, items: Items, pattern: str, count: int, remains: Path, *, harm: Harm = flip_bit
) -> list[str]:
    """Damage one file a time, `count` times; return in words each time that was not reported, or served wrongly.

    Args:
        folder: a closed collection.
        items: what it holds.
        pattern: which files: segments' or manifests'; only files that the newest generation needs are taken.
        count: how many times.
        remains: where the damaged copies are put; made here.
        harm: what is done to the file.
    """
    manifest = max(folder.glob("generations/*.json"))
    text = manifest.read_text()
    files = sorted(path for path in folder.glob(pattern) if path == manifest or path.name.split(".")[0] in text)
    assert files, f"the newest generation needs no {pattern}"

    def check_damaged(damaged: Path) -> None:
        collection = open_collection(damaged, "always")
        try:
            assert collection.stats().damage, "the damage is not reported"
            assert items_of(collection) == items
            assert_answers_are_exact(collection, items)
        finally:
            collection.close()

    return _each(folder, [path.relative_to(folder) for path in files], count, remains, check_damaged, harm=harm)


def store_harms_that_pass(folder: Path, items: Items, count: int, remains: Path, *, harm: Harm = flip_bit) -> list[str]:
    """Damage the store; each time it must be refused, or leave every item and every answer as it was."""

    def check_damaged(damaged: Path) -> None:
        try:
            collection = open_collection(damaged, "always")
        except DataLossError:
            return
        try:
            # A damaged vector is left out and reported, so the answers of an approximate search may lack it.
            if not collection.stats().damage:
                assert_answers_are_exact(collection, items)
            assert items_of(collection) == items
        except DataLossError:
            return
        finally:
            collection.close()

    return _each(folder, [Path("store.sqlite3")], count, remains, check_damaged, harm=harm)


def log_harms_that_pass(history: History, count: int, remains: Path, *, harm: Harm = flip_bit) -> list[str]:
    """Damage SQLite's log; what is left must be an earlier state, reported where a generation is ahead of it."""
    disk = Disk()
    point = _last_sync_of_the_log(history.changes)
    for change in history.changes[:point]:
        disk.apply(change)
    remains.mkdir()
    disk.write_to(remains / "whole", KEPT_ALL, random.Random(0))
    manifest_sequence = _sequence_reached(remains / "whole" / FOLDER)
    lenient = replace(history, durability="interval")

    def check_damaged(damaged: Path) -> None:
        collection = open_collection(damaged, "always")
        sequence, damage = collection.sequence, collection.stats().damage
        collection.close()
        if damage:
            assert any("the writes between are lost" in sentence for sentence in damage)
        else:
            assert sequence >= manifest_sequence, "a store behind its generation is not reported"
            check(damaged, lenient, point)

    return _each(
        remains / "whole" / FOLDER, [Path("store.sqlite3-wal")], count, remains / "damaged", check_damaged, harm=harm
    )


def _last_sync_of_the_log(changes: Sequence[Change]) -> int:
    """Return the last point at which the log has just been synced and none of it is folded into the main file yet.

    While it is being folded, and until it begins anew, damage to it lets SQLite mix pages of two moments.
    """
    found, is_unfolded = 0, False
    for at, change in enumerate(changes):
        if isinstance(change, Written) and change.path.name == "store.sqlite3":
            is_unfolded = False
        elif isinstance(change, Written) and change.path.name == "store.sqlite3-wal" and change.offset == 0:
            is_unfolded = True
        elif isinstance(change, Synced) and change.path.name == "store.sqlite3-wal" and is_unfolded:
            found = at + 1
    return found


def _sequence_reached(folder: Path) -> int:
    """Return the newest generation's sequence, of a copy, so that the folder stays as it is."""
    copy = shutil.copytree(folder, folder.with_name("looked-at"))
    collection = open_collection(copy, "always")
    try:
        generation = collection.stats().generation
        return 0 if generation is None else generation.sequence
    finally:
        collection.close()


def _each(
    folder: Path,
    files: list[Path],
    count: int,
    remains: Path,
    check_damaged: Callable[[Path], None],
    *,
    harm: Harm = flip_bit,
) -> list[str]:
    found = []
    remains.mkdir()
    for number in range(count):
        chance = random.Random(number)
        name = files[number % len(files)]
        damaged = shutil.copytree(folder, remains / f"{number}")
        harm(damaged / name, chance)
        try:
            check_damaged(damaged)
        except Exception as error:  # noqa: BLE001 - whatever escapes is a violation
            where = traceback.extract_tb(error.__traceback__)[-1]
            found.append(f"{harm.__name__} {number} in {name}: {error!r} at {where.line}")
    return found
