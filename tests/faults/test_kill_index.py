"""Processes that write to a collection are killed at random moments; nothing acknowledged may be lost."""

import itertools
import random
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
from tests.faults.nursery import Nursery, open_nursery

pytestmark = pytest.mark.faults

KILLS = 200


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    """A nursery, ready."""
    with open_nursery("tests.faults.index_victim") as nursery:
        yield nursery


def _kill_one(nursery: Nursery, folder: Path, seed: int) -> dict[int, list[int]]:
    """Let a victim write, kill it at the seed's moment, and return the sequences it acknowledged, by writer."""
    chance = random.Random(seed)
    # One victim in five dies before its first acknowledgement, while the collection opens and recovers.
    answers = 0 if chance.random() < 0.2 else chance.randint(1, WRITERS * OPERATIONS)
    delay_seconds = chance.random() * (0.03 if answers == 0 else 0.004)
    done: dict[int, list[int]] = {writer: [] for writer in range(WRITERS)}
    for line in nursery.kill_one(folder, seed, lines=answers, delay_seconds=delay_seconds):
        word, *rest = line.split(" ", 2)
        assert word in {"did", "finished"}, line
        if word == "did":
            done[int(rest[0])].append(int(rest[1]))
    return done


def _is_mid_publication(folder: Path) -> bool:
    """Tell whether the victim died between the first file of a segment or manifest and its publication."""
    names = {path.name.partition(".")[0] for path in (folder / "segments").glob("*")}
    manifests = [path.read_text() for path in (folder / "generations").glob("*.json")]
    unnamed = [name for name in names if not any(name in manifest for manifest in manifests)]
    return bool(unnamed) or bool(list(folder.rglob("*.tmp")))


@pytest.mark.timeout(900)
def test_kill_at_any_moment_loses_nothing_acknowledged(nursery: Nursery, tmp_path: Path) -> None:
    """Through 200 kills of a growing collection, each restart has every acknowledged write and answers exactly."""
    folder = tmp_path / "collection"
    items: Items = {}
    sequence = 0
    counts = {"acknowledged": 0, "while opening": 0, "mid-publication": 0, "with segments": 0}
    for seed in range(KILLS):
        done = _kill_one(nursery, folder, seed)
        counts["mid-publication"] += _is_mid_publication(folder)
        collection = open_victim(folder)
        try:
            found = items_of(collection)
            assert_nothing_lost(found, items, done, seed)
            assert_answers_are_exact(collection, found)
            assert_what_is_derived_agrees(folder)
            assert_memory_equals_store(collection)
            stats = collection.stats()
            assert (stats.damage, stats.item_count) == ((), len(found))
            assert collection.sequence >= max([sequence, *itertools.chain.from_iterable(done.values())])
            items, sequence = found, collection.sequence
        finally:
            collection.close()
        counts["acknowledged"] += sum(len(sequences) for sequences in done.values())
        counts["while opening"] += not any(done.values())
        counts["with segments"] += bool(stats.segments)
    print(f"\n{KILLS} kills: {counts}")  # noqa: T201 - read in the report of the suite
    # The loop proves little unless the kills fell where they hurt.
    assert counts["mid-publication"] >= KILLS // 20, counts
    assert counts["while opening"] >= KILLS // 20, counts
    assert counts["with segments"] >= KILLS // 2, counts
    assert counts["acknowledged"] >= 10 * KILLS, counts
