"""Processes that write to a collection are killed at random moments; nothing acknowledged may be lost."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from clip_search_server.index import Collection, Equals, Search
from clip_search_server.index.derived import find_damage
from clip_search_server.index.schema import store_path
from tests.faults.index_history import (
    OPERATIONS,
    VECTORS,
    WRITERS,
    Items,
    items_of,
    open_victim,
    operations,
    written_by,
)
from tests.unit.index.support import exact_neighbours

pytestmark = pytest.mark.faults

KILLS = 200
ROOT = Path(__file__).parents[2]


class Nursery:
    """A process that forks victims; see `index_victim`."""

    def __init__(self) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.index_victim"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def kill_one(self, folder: Path, seed: int) -> dict[int, list[int]]:
        """Let a victim write, kill it at the seed's moment, and return the sequences it acknowledged, by writer."""
        assert self._process.stdin is not None
        chance = random.Random(seed)
        # One victim in five dies before its first acknowledgement, while the collection opens and recovers.
        answers = 0 if chance.random() < 0.2 else chance.randint(1, WRITERS * OPERATIONS)
        delay_seconds = chance.random() * (0.03 if answers == 0 else 0.004)
        self._process.stdin.write(f"{folder} {seed}\n")
        self._process.stdin.flush()
        pid = int(self._line().split()[1])
        heard = [self._line() for _ in range(answers)]
        time.sleep(delay_seconds)  # The moment is random on purpose.
        os.kill(pid, signal.SIGKILL)
        while (line := self._line()) != f"dead {pid}":
            heard.append(line)
        done: dict[int, list[int]] = {writer: [] for writer in range(WRITERS)}
        for line in heard:
            word, *rest = line.split(" ", 2)
            assert word in {"did", "finished"}, line
            if word == "did":
                done[int(rest[0])].append(int(rest[1]))
        return done

    def close(self) -> None:
        """End the nursery."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(60) == 0

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the nursery died"
        return line.rstrip("\n")


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    """A nursery, ready."""
    nursery = Nursery()
    yield nursery
    nursery.close()


def _is_mid_publication(folder: Path) -> bool:
    """Tell whether the victim died between the first file of a segment or manifest and its publication."""
    names = {path.name.partition(".")[0] for path in (folder / "segments").glob("*")}
    manifests = [path.read_text() for path in (folder / "generations").glob("*.json")]
    unnamed = [name for name in names if not any(name in manifest for manifest in manifests)]
    return bool(unnamed) or bool(list(folder.rglob("*.tmp")))


def _assert_nothing_lost(items: Items, before: Items, done: dict[int, list[int]], seed: int) -> None:
    """Each writer's items are those after its acknowledged calls, or after one call more, whole."""
    for writer, sequences in done.items():
        expected = written_by(before, writer)
        calls = operations(seed, writer)
        for operation in itertools.islice(calls, len(sequences)):
            expected = operation.foretell(expected)
        unanswered = next(calls, None)
        possible = [expected] if unanswered is None else [expected, unanswered.foretell(expected)]
        assert written_by(items, writer) in possible, f"round {seed}, writer {writer}: not what was acknowledged"


def _assert_answers_are_exact(collection: Collection, items: Items) -> None:
    model = {name: VECTORS[at] for name, (at, _text) in items.items()}
    for query in VECTORS[::40]:
        wanted = exact_neighbours(model, query, 15)
        assert list(collection.search(query, limit=15, exact=True).neighbours) == wanted
        assert list(collection.search(query, limit=15).neighbours) == wanted
    for _at, text in itertools.islice(items.values(), 5):
        wanted_names = {name for name, (_number, own) in items.items() if own == text}
        found = collection.find(Search(VECTORS[0], limit=9, filter=Equals("last", text))).hits
        assert {hit.item.id for hit in found} == wanted_names


def _assert_what_is_derived_agrees(folder: Path) -> None:
    connection = apsw.Connection(str(store_path(folder)))
    try:
        assert find_damage(connection) == []
    finally:
        connection.close()


@pytest.mark.timeout(900)
def test_kill_at_any_moment_loses_nothing_acknowledged(nursery: Nursery, tmp_path: Path) -> None:
    """Through 200 kills of a growing collection, each restart has every acknowledged write and answers exactly."""
    folder = tmp_path / "collection"
    items: Items = {}
    sequence = 0
    counts = {"acknowledged": 0, "while opening": 0, "mid-publication": 0, "with segments": 0}
    for seed in range(KILLS):
        done = nursery.kill_one(folder, seed)
        counts["mid-publication"] += _is_mid_publication(folder)
        collection = open_victim(folder)
        try:
            found = items_of(collection)
            _assert_nothing_lost(found, items, done, seed)
            _assert_answers_are_exact(collection, found)
            _assert_what_is_derived_agrees(folder)
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
