import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clip_search_server.errors import UnavailableError
from clip_search_server.index import IndexSettings, Record
from clip_search_server.index.schema import create_store
from clip_search_server.index.store import Store
from clip_search_server.index.transaction import Added, Change, Transaction
from clip_search_server.index.writer import GroupCommitWriter
from tests.unit.index.support import DIM, SPACE, random_vectors, wait_until

VECTORS = random_vectors(100, seed=1)


class Commits:
    """Notes every commit; `gate` holds commits back while it is clear."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.ids: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, changes: Sequence[Change], sequence: int) -> None:
        """Note the changes of one commit."""
        self.gate.wait(60)
        self.sizes.append(len(changes))
        self.ids.extend(change.id for change in changes if isinstance(change, Added))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    create_store(tmp_path / "store.sqlite3", space_id=SPACE, dim=DIM)
    store = Store(tmp_path / "store.sqlite3", durability="always")
    yield store
    store.close()


@pytest.fixture
def commits() -> Commits:
    """What the writer committed."""
    return Commits()


@pytest.fixture
def writer(store: Store, commits: Commits) -> Iterator[GroupCommitWriter]:
    """A writer that may put 16 operations into a commit."""
    writer = GroupCommitWriter(store, commits, IndexSettings(group_commit_operations_max=16))
    yield writer
    commits.gate.set()
    writer.close()


def _putting(at: int) -> Callable[[Transaction], int]:
    return lambda transaction: transaction.put(Record(f"item {at}", VECTORS[at]))


def test_callers_that_wait_together_share_a_commit(writer: GroupCommitWriter, commits: Commits) -> None:
    """While one commit is under way the next callers queue up and are served together, each with its own result."""
    commits.gate.clear()
    with ThreadPoolExecutor(33) as pool:
        answers = [pool.submit(writer.run, _putting(at)) for at in range(33)]
        wait_until(lambda: len(writer._waiting) >= 17)
        commits.gate.set()
        assert sorted(answer.result() for answer in answers) == list(range(1, 34))
    assert max(commits.sizes) == 16
    assert len(commits.sizes) <= 19


def test_commits_are_measured(writer: GroupCommitWriter, store: Store) -> None:
    """Each with how many writes shared it, how long it took, and how long of that the disk had."""
    for at in range(3):
        writer.run(_putting(at))
    figures = store.figures
    assert figures.commit_operations.counts()[0] == 3
    assert sum(figures.commit_seconds.counts()) == sum(figures.sync_seconds.counts()) == 3
    assert 0 < figures.sync_seconds.sum < figures.commit_seconds.sum


def test_where_commits_do_not_sync_the_syncs_are_measured(tmp_path: Path) -> None:
    """Under `interval` the disk has its time when a sync is asked for, not at a commit."""
    create_store(tmp_path / "lazy.sqlite3", space_id=SPACE, dim=DIM)
    store = Store(tmp_path / "lazy.sqlite3", durability="interval")
    settings = IndexSettings(durability="interval", sync_interval_seconds=3600)
    writer = GroupCommitWriter(store, Commits(), settings)
    try:
        writer.run(_putting(0))
        assert sum(store.figures.sync_seconds.counts()) == 0
        writer.sync()
        assert sum(store.figures.sync_seconds.counts()) == 1
    finally:
        writer.close()
        store.close()


def test_an_answer_comes_only_after_the_write_is_visible(writer: GroupCommitWriter, commits: Commits) -> None:
    """A caller is not answered before `on_commit` has returned."""
    commits.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(writer.run, _putting(0))
        wait_until(lambda: writer._store.sequence == 1)  # It is on the disk.
        assert not answer.done()
        commits.gate.set()
        assert answer.result() == 1
    assert commits.ids == ["item 0"]


def test_a_failing_action_harms_nobody_else(writer: GroupCommitWriter, commits: Commits) -> None:
    """What an action wrote before it raised is undone; those in the same transaction stand."""

    def fail(transaction: Transaction) -> None:
        transaction.put(Record("never", VECTORS[99]))
        raise KeyError("mine")

    commits.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(writer.run, _putting(0))
        wait_until(lambda: not writer._waiting)
        before = pool.submit(writer.run, _putting(1))
        wait_until(lambda: len(writer._waiting) == 1)
        failing = pool.submit(writer.run, fail)
        wait_until(lambda: len(writer._waiting) == 2)
        after = pool.submit(writer.run, _putting(2))
        wait_until(lambda: len(writer._waiting) == 3)
        commits.gate.set()
        with pytest.raises(KeyError, match="mine"):
            failing.result()
        assert [first.result(), before.result(), after.result()] == [1, 2, 3]
    assert commits.sizes == [1, 2]
    assert commits.ids == ["item 0", "item 1", "item 2"]


def test_a_write_that_cannot_be_shown_is_not_acknowledged(store: Store) -> None:
    """Where memory cannot follow the disk, the caller gets the error and no later write is accepted."""

    def fail(changes: Sequence[Change], sequence: int) -> None:
        raise MemoryError("no room")

    writer = GroupCommitWriter(store, fail, IndexSettings())
    with pytest.raises(MemoryError, match="no room"):
        writer.run(_putting(0))
    with pytest.raises(UnavailableError, match="could not be shown"):
        writer.run(_putting(1))
    writer.close()


def test_closing_finishes_what_waits_and_refuses_the_rest(writer: GroupCommitWriter, commits: Commits) -> None:
    """Callers already waiting are served, later ones get UnavailableError, and nobody hangs."""
    commits.gate.clear()
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(writer.run, _putting(at)) for at in range(5)]
        wait_until(lambda: writer._store.sequence + len(writer._waiting) == 5)
        closing = pool.submit(writer.close)
        wait_until(lambda: writer._closed)
        with pytest.raises(UnavailableError, match="closed"):
            writer.run(_putting(9))
        commits.gate.set()
        closing.result()
        assert sorted(answer.result() for answer in answers) == [1, 2, 3, 4, 5]


def test_interval_durability_syncs_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `interval` the log is synced soon after a commit, and `sync` does so at once."""
    create_store(tmp_path / "interval.sqlite3", space_id=SPACE, dim=DIM)
    store = Store(tmp_path / "interval.sqlite3", durability="interval")
    synced: list[int] = []
    sync = store.sync

    def noted_sync() -> None:
        sync()
        synced.append(store.sequence)

    monkeypatch.setattr(store, "sync", noted_sync)
    settings = IndexSettings(durability="interval", sync_interval_seconds=0.01)
    writer = GroupCommitWriter(store, lambda changes, sequence: None, settings)
    writer.run(_putting(0))
    wait_until(lambda: synced == [1])
    writer.run(_putting(1))
    writer.sync()
    assert synced[-1] == 2
    writer.close()
    store.close()
