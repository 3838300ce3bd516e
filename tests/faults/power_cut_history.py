"""A collection's life on a recorded disk, and what must be true of what a power cut leaves of it.

The writes are those of `index_history`; here they run in this process, so that each acknowledgement has its place among
the recorded changes. Knows nothing of how changes are recorded or lost.
"""

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from clip_search_server.index import Collection
from clip_search_server.index.settings import Durability
from tests.faults import power_cuts
from tests.faults.index_checks import (
    assert_answers_are_exact,
    assert_memory_equals_store,
    assert_what_is_derived_agrees,
)
from tests.faults.index_history import DIM, SETTINGS, SPACE, WRITERS, Items, items_of, operations, written_by
from tests.faults.power_cut_disk import Change, Cut, Disk, Removed, Renamed, Synced
from tests.faults.power_cut_layer import Recorder, recording
from tests.faults.writers import run_writers

FOLDER = "collection"


@dataclass(frozen=True, slots=True)
class Answer:
    """An acknowledgement: how many changes there were, the sequence it told, and for a snapshot its generation."""

    position: int
    sequence: int
    generation: int | None


@dataclass(slots=True)
class Session:
    """From opening a collection to closing it.

    Attributes:
        seed: foretells the writes.
        position: changes before the opening.
        before: the items at the opening.
        answers: what each writer was told.
    """

    seed: int
    position: int
    before: Items
    answers: dict[int, list[Answer]] = field(default_factory=lambda: {writer: [] for writer in range(WRITERS)})


@dataclass(frozen=True, slots=True)
class History:
    """What happened, in order."""

    durability: Durability
    changes: Sequence[Change]
    sessions: Sequence[Session]


def open_collection(folder: Path, durability: Durability, said: list[str] | None = None) -> Collection:
    """Open the collection, with a log that is synced often where it is not synced always."""
    settings = replace(SETTINGS, durability=durability, sync_interval_seconds=0.02)
    said = [] if said is None else said
    return Collection.open(folder, dim=DIM, space_id=SPACE, settings=settings, progress=said.append)


def recorded_history(
    root: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability, seeds: Iterable[int]
) -> History:
    """Open, write and close once for each seed, in the new folder `root`, and return what happened."""
    root.mkdir()
    sessions: list[Session] = []
    items: Items = {}
    with recording(root, monkeypatch) as recorder:
        for seed in seeds:
            session = Session(seed, recorder.position, items)
            sessions.append(session)
            collection = open_collection(root / FOLDER, durability)
            try:
                _write(collection, recorder, session)
                items = items_of(collection)
            finally:
                collection.close()
    return History(durability, recorder.changes, sessions)


def recorded_after_a_kill(
    root: Path, monkeypatch: pytest.MonkeyPatch, history: History, point: int, seed: int
) -> History:
    """Kill the process after `point` changes and let another one go on, on what the kernel has; return all of it.

    What was not synced before the kill is in the new folder `root`, and still not synced.
    """
    disk = Disk()
    for change in history.changes[:point]:
        disk.apply(change)
    disk.write_to(root, Cut("all", "all"), random.Random(0))
    with recording(root, monkeypatch, history.changes[:point]) as recorder:
        collection = open_collection(root / FOLDER, history.durability)
        try:
            # From here on somebody may have seen what was found, be it acknowledged or not.
            session = Session(seed, recorder.position, items_of(collection))
            _write(collection, recorder, session)
        finally:
            collection.close()
    return History(history.durability, recorder.changes, [*_told_by(history, point), session])


def _told_by(history: History, point: int) -> list[Session]:
    """Return the sessions as they were known to those outside after `point` changes."""
    return [
        replace(
            session,
            answers={
                writer: [answer for answer in answers if answer.position <= point]
                for writer, answers in session.answers.items()
            },
        )
        for session in history.sessions
        if session.position <= point
    ]


def before_syncs(history: History, count: int) -> list[int]:
    """Return points at which a kill leaves something unsynced: before the first syncs of names, and before some others.

    The first are those of folders and of the store, which everything acknowledged later depends on.
    """
    names: list[int] = []
    others: list[int] = []
    for at, change in enumerate(history.changes):
        if isinstance(change, Synced):
            (others if change.path.suffix else names).append(at)
    chance = random.Random(count)
    some = chance.sample(names[count // 2 :], count // 4) + chance.sample(others, count // 4)
    return sorted({*names[: count // 2], *some})


def _write(collection: Collection, recorder: Recorder, session: Session) -> None:
    def write(writer: int) -> None:
        for operation in operations(session.seed, writer):
            if operation.puts or operation.gone:
                sequence, number = operation.run(collection), None
            else:
                generation = collection.snapshot()
                sequence, number = generation.sequence, generation.number
            session.answers[writer].append(Answer(recorder.position, sequence, number))

    run_writers(WRITERS, write)


def final_items(history: History) -> Items:
    """Return what the collection holds at the end."""
    last = history.sessions[-1]
    items = last.before
    for writer in last.answers:
        for operation in operations(last.seed, writer):
            items = operation.foretell(items)
    return items


def telling(history: History, count: int) -> list[int]:
    """Return up to this many crash points where a missing sync would hurt: at answers, and at names just published.

    Not at the names of segments, which mean nothing before a manifest names them.
    """
    named = [
        at + 1
        for at, change in enumerate(history.changes)
        if isinstance(change, Renamed) and change.target.suffix in {".json", ".sqlite3"}
    ]
    answered = [
        answer.position for session in history.sessions for answers in session.answers.values() for answer in answers
    ]
    chance = random.Random(count)
    return sorted({*chance.sample(named, min(len(named), count // 2)), *chance.sample(answered, count // 2)})


def counts_of(history: History) -> dict[str, int]:
    """Return how much of each kind of change there was."""
    kinds = {"syncs": Synced, "renames": Renamed, "removals": Removed}
    counts = {word: sum(isinstance(change, kind) for change in history.changes) for word, kind in kinds.items()}
    return {"changes": len(history.changes), **counts}


def violations(history: History, points: Iterable[int], cuts: Sequence[Cut], folder: Path) -> list[str]:
    """Cut the power at these points and return in words all that is then wrong; see `power_cuts.violations`."""
    return power_cuts.violations(
        history.changes, points, cuts, folder, lambda remains, point: check(remains / FOLDER, history, point)
    )


def check(folder: Path, history: History, point: int) -> None:
    """Open what is left after `point` changes and compare it with what had been acknowledged by then."""
    session = [session for session in history.sessions if session.position <= point][-1]
    told = {
        writer: [answer for answer in answers if answer.position <= point]
        for writer, answers in session.answers.items()
    }
    said: list[str] = []
    collection = open_collection(folder, history.durability, said)
    try:
        found = items_of(collection)
        stats = collection.stats()
        assert stats.damage == ()
        assert not [line for line in said if "does not load whole" in line]
        assert stats.item_count == len(found)
        _check_items(found, history, session, told, collection.sequence)
        earlier = [other for other in history.sessions if other.position < session.position]
        answers = [*itertools.chain.from_iterable(told.values())]
        answers += [answer for other in earlier for some in other.answers.values() for answer in some]
        wanted = max((answer.generation for answer in answers if answer.generation is not None), default=0)
        assert (stats.generation.number if stats.generation else 0) >= wanted, "a published generation is gone"
        assert_answers_are_exact(collection, found)
        assert_what_is_derived_agrees(folder)
        assert_memory_equals_store(collection)
        collection.upsert([])
    finally:
        collection.close()


def _check_items(
    found: Items, history: History, session: Session, told: dict[int, list[Answer]], sequence: int
) -> None:
    """Each writer's items are those after its acknowledged calls, or after one call more, whole.

    Where the log is synced now and then, the newest calls may be missing: those beyond one sequence, for both writers.
    """
    for writer, answers in told.items():
        if history.durability == "interval":
            synced = max((answer.sequence for answer in answers if answer.generation is not None), default=0)
            assert sequence >= synced, "what a snapshot made durable is gone"
        kept = [answer for answer in answers if answer.sequence <= sequence]
        assert history.durability == "interval" or kept == answers, f"the sequence fell back to {sequence}"
        calls = operations(session.seed, writer)
        expected = written_by(session.before, writer)
        for operation in itertools.islice(calls, len(kept)):
            expected = operation.foretell(expected)
        possible = [expected]
        unanswered = next(calls, None)
        if len(kept) == len(answers) and unanswered is not None:
            possible.append(unanswered.foretell(expected))
        assert written_by(found, writer) in possible, f"writer {writer}: not what was acknowledged"
