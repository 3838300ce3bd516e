"""The power of a real file system is cut under a process that writes to a collection."""

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.index_checks import (
    assert_answers_are_exact,
    assert_memory_equals_store,
    assert_nothing_lost,
    assert_what_is_derived_agrees,
)
from tests.faults.index_history import OPERATIONS, WRITERS, Items, items_of, open_victim
from tests.faults.mounted_disks import LoopDisk, loop_disk
from tests.faults.nursery import Nursery, open_nursery

pytestmark = [pytest.mark.faults, pytest.mark.system]

CUTS = 30


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    """A disk whose power can be cut."""
    with loop_disk(tmp_path) as disk:
        yield disk


def test_the_disk_loses_what_was_not_synced(disk: LoopDisk) -> None:
    """Otherwise cutting its power would prove nothing."""
    for name, is_synced in (("synced", True), ("unsynced", False)):
        with (disk.folder / name).open("wb", buffering=0) as file:
            file.write(b"x" * 100_000)
            if is_synced:
                os.fsync(file.fileno())
    disk.cut_power()
    with pytest.raises(OSError, match="Input/output error"), (disk.folder / "synced").open("ab", buffering=0) as file:
        file.write(b"more")
    disk.restart()
    assert (disk.folder / "synced").read_bytes() == b"x" * 100_000
    unsynced = disk.folder / "unsynced"
    assert not unsynced.exists() or unsynced.read_bytes() != b"x" * 100_000


def _cut_one(nursery: Nursery, disk: LoopDisk, seed: int) -> dict[int, list[int]]:
    """Let a victim write, cut the power at the seed's moment, and return the sequences it acknowledged, by writer."""
    chance = random.Random(seed)
    answers = 0 if chance.random() < 0.2 else chance.randint(1, WRITERS * OPERATIONS - 8)
    delay_seconds = chance.random() * (0.05 if answers == 0 else 0.01)
    said = nursery.kill_one(
        disk.folder / "collection", seed, lines=answers, delay_seconds=delay_seconds, before=disk.cut_power
    )
    disk.restart()
    done: dict[int, list[int]] = {writer: [] for writer in range(WRITERS)}
    for line in said:
        word, *rest = line.split(" ", 2)
        assert word in {"did", "failed", "finished"}, line  # Between the cut and its death, writes may be refused.
        if word == "did":
            done[int(rest[0])].append(int(rest[1]))
    return done


@pytest.mark.timeout(600)
def test_a_power_cut_of_a_real_disk_loses_nothing_acknowledged(disk: LoopDisk, tmp_path: Path) -> None:
    """Through 30 cuts under a growing collection, what is left has every acknowledged write and answers exactly."""
    before: Items = {}
    counts = {"acknowledged": 0, "while opening": 0, "with segments": 0}
    with open_nursery("tests.faults.index_victim") as nursery:
        for seed in range(CUTS):
            done = _cut_one(nursery, disk, seed)
            folder = tmp_path / f"left {seed}"
            # Looked at elsewhere: the next victim opens what the power cut left, and nothing here keeps the disk busy.
            if (disk.folder / "collection").exists():
                shutil.copytree(disk.folder / "collection", folder)
            collection = open_victim(folder)
            try:
                items = items_of(collection)
                assert_nothing_lost(items, before, done, seed)
                assert_answers_are_exact(collection, items)
                assert_memory_equals_store(collection)
                assert_what_is_derived_agrees(folder)
                stats = collection.stats()
                assert stats.damage == ()
            finally:
                collection.close()
            before = items
            counts["acknowledged"] += sum(len(sequences) for sequences in done.values())
            counts["while opening"] += not any(done.values())
            counts["with segments"] += bool(stats.segments)
    print(f"\n{CUTS} power cuts: {counts}")  # noqa: T201 - read in the report of the suite
    assert counts["with segments"] >= CUTS // 2, counts
    assert counts["acknowledged"] >= 10 * CUTS, counts
