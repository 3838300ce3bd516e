"""Bits flipped in the files of a collection, and what must be true of what is then served; knows nothing of crashes."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from clip_search_server.errors import DataLossError
from tests.faults.index_history import Items, items_of
from tests.faults.power_cut_disk import Cut, Disk
from tests.faults.power_cut_history import FOLDER, History, check, open_collection
from tests.faults.test_kill_index import _assert_answers_are_exact

Flip = Callable[[Path, random.Random], None]

KEPT_ALL = Cut("all", "all")


def flip_bit(path: Path, chance: random.Random) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def flip_bit_of_next_label(path: Path, _chance: random.Random) -> None:
    """Make a number of a manifest another number, which nothing but the manifest's own digest can tell."""
    content = bytearray(path.read_bytes())
    name = b'"next_label": '
    content[content.index(name) + len(name)] ^= 1
    path.write_bytes(content)


def flips_that_pass(
    folder: Path, items: Items, pattern: str, count: int, remains: Path, *, flip: Flip = flip_bit
) -> list[str]:
    """Flip a bit of one file a time, `count` times; return in words each that was not reported, or served wrongly.

    Args:
        folder: a closed collection.
        items: what it holds.
        pattern: which files: segments' or manifests'; only files that the newest generation needs are taken.
        count: how many flips.
        remains: where the damaged copies are put; made here.
        flip: flips a bit.
    """
    manifest = max(folder.glob("generations/*.json"))
    text = manifest.read_text()
    files = sorted(path for path in folder.glob(pattern) if path == manifest or path.name.split(".")[0] in text)
    assert files, f"the newest generation needs no {pattern}"

    def check_flipped(damaged: Path) -> None:
        collection = open_collection(damaged, "always")
        try:
            assert collection.stats().damage, "the damage is not reported"
            assert items_of(collection) == items
            _assert_answers_are_exact(collection, items)
        finally:
            collection.close()

    return _each(folder, [path.relative_to(folder) for path in files], count, remains, check_flipped, flip=flip)


def store_flips_that_pass(folder: Path, items: Items, count: int, remains: Path) -> list[str]:
    """Flip bits of the store; each must be refused, or leave every item and every answer as it was."""

    def check_flipped(damaged: Path) -> None:
        try:
            collection = open_collection(damaged, "always")
        except DataLossError:
            return
        try:
            # A damaged vector is left out and reported, so the answers of an approximate search may lack it.
            if not collection.stats().damage:
                _assert_answers_are_exact(collection, items)
            assert items_of(collection) == items
        except DataLossError:
            return
        finally:
            collection.close()

    return _each(folder, [Path("store.sqlite3")], count, remains, check_flipped)


def log_flips_that_pass(history: History, count: int, remains: Path) -> list[str]:
    """Flip bits of SQLite's log; what is left must be an earlier state, reported where a generation is ahead of it."""
    disk = Disk()
    point = max(answer.position for answers in history.sessions[-1].answers.values() for answer in answers)
    for change in history.changes[:point]:
        disk.apply(change)
    remains.mkdir()
    disk.write_to(remains / "whole", KEPT_ALL, random.Random(0))
    manifest_sequence = _sequence_reached(remains / "whole" / FOLDER)
    lenient = replace(history, durability="interval")

    def check_flipped(damaged: Path) -> None:
        collection = open_collection(damaged, "always")
        sequence, damage = collection.sequence, collection.stats().damage
        collection.close()
        if damage:
            assert any("the writes between are lost" in sentence for sentence in damage)
        else:
            assert sequence >= manifest_sequence, "a store behind its generation is not reported"
            check(damaged, lenient, point)

    return _each(remains / "whole" / FOLDER, [Path("store.sqlite3-wal")], count, remains / "flipped", check_flipped)


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
    check_flipped: Callable[[Path], None],
    *,
    flip: Flip = flip_bit,
) -> list[str]:
    found = []
    remains.mkdir()
    for number in range(count):
        chance = random.Random(number)
        name = files[number % len(files)]
        damaged = shutil.copytree(folder, remains / f"{number}")
        flip(damaged / name, chance)
        try:
            check_flipped(damaged)
        except Exception as error:  # noqa: BLE001 - whatever escapes is a violation
            found.append(f"flip {number} in {name}: {error!r}")
    return found
