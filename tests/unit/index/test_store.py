import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import numpy as np
import pytest

from clip_search_server.errors import DataLossError, NotFoundError, UnavailableError
from clip_search_server.index import Record, page_checksums
from clip_search_server.index.reader import StoreReader
from clip_search_server.index.schema import create_store
from clip_search_server.index.store import Store
from clip_search_server.index.transaction import Added, Removed
from tests.unit.index.support import DIM, SPACE, random_vectors

VECTORS = random_vectors(10, seed=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty store's file."""
    path = tmp_path / "store.sqlite3"
    create_store(path, space_id=SPACE, dim=DIM)
    return path


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """The store, open."""
    store = Store(path, durability="always")
    yield store
    store.close()


@pytest.fixture
def reader(path: Path, store: Store) -> Iterator[StoreReader]:
    """Reads of the store."""
    reader = StoreReader(path, dim=DIM)
    yield reader
    reader.close()


def _put(store: Store, *records: Record) -> list[Added | Removed]:
    with store.transaction() as transaction:
        for record in records:
            transaction.put(record)
    return transaction.changes


def test_a_record_comes_back_as_it_was_written(store: Store, reader: StoreReader) -> None:
    """Every field of an item survives, and absent ids give None."""
    _put(store, Record("é", VECTORS[0], {"year": 2026}, "text ü", b"thumbnail", b"digest"))
    [item, missing] = reader.get(["é", "absent"])
    assert missing is None
    assert item is not None
    assert item.vector.tobytes() == VECTORS[0].tobytes()
    assert (item.id, item.sequence, item.attributes, item.text, item.content_digest) == (
        "é",
        1,
        {"year": 2026},
        "text ü",
        b"digest",
    )
    assert reader.thumbnails(["é", "absent"]) == [b"thumbnail", None]
    assert reader.digests(["é", "absent"]) == [b"digest", None]


def test_labels_are_never_given_out_twice(path: Path) -> None:
    """Deleting the newest item and opening the store anew does not free its label."""
    labels = []
    for _ in range(3):
        store = Store(path, durability="always")
        [added] = _put(store, Record("a", VECTORS[0]))
        assert isinstance(added, Added)
        labels.append(added.label)
        with store.transaction() as transaction:
            assert transaction.remove("a")
        store.close()
    assert labels == [1, 2, 3]


def test_an_equal_vector_keeps_its_label(store: Store) -> None:
    """Writing the same vector again changes nothing in memory; another vector is a death and a birth."""
    _put(store, Record("a", VECTORS[0]))
    assert _put(store, Record("a", VECTORS[0].copy(), text="new")) == []
    assert _put(store, Record("a", None, text="newer")) == []
    [removed, added] = _put(store, Record("a", VECTORS[1]))
    assert removed == Removed(1, 4)
    assert isinstance(added, Added)
    assert (added.label, added.id) == (2, "a")


def test_replacing_an_item_replaces_all_of_it(store: Store, reader: StoreReader) -> None:
    """What the new record does not have is gone, but for the vector and the digest of what it was made from."""
    _put(store, Record("a", VECTORS[0], {"year": 2026}, "text", b"thumbnail", b"digest"))
    _put(store, Record("a", None))
    [item] = reader.get(["a"])
    assert item is not None
    assert (item.attributes, item.text, item.content_digest) == ({}, "", b"digest")
    assert reader.thumbnails(["a"]) == [b""]


def test_a_new_item_needs_a_vector(store: Store) -> None:
    """Keeping the vector of an item that does not exist is the caller's mistake and uses up no sequence number."""
    with store.transaction() as transaction, pytest.raises(NotFoundError, match="no item 'a' is stored"):
        transaction.put(Record("a", None))
    assert store.sequence == 0


def test_items_are_listed_in_byte_order(store: Store, reader: StoreReader) -> None:
    """The order is that of the ids' UTF-8, and a page starts after the id before it."""
    ids = ["b", "a", "é", "Z", "\U0001f600", "z", "ab", "\uffff"]
    _put(store, *(Record(item_id, VECTORS[at]) for at, item_id in enumerate(ids)))
    listed = [item.id for item in reader.list_after("", 100)]
    assert listed == sorted(ids, key=str.encode)
    assert [item.id for item in reader.list_after(listed[2], 3)] == listed[3:6]


def test_a_failing_transaction_leaves_nothing(store: Store, reader: StoreReader) -> None:
    """An exception inside the block undoes the whole of it, the counters included."""

    def fail() -> None:
        with store.transaction() as transaction:
            transaction.put(Record("a", VECTORS[0]))
            raise RuntimeError("caller's own")

    with pytest.raises(RuntimeError, match="caller's own"):
        fail()
    assert reader.get(["a"]) == [None]
    assert (store.sequence, store.next_label) == (0, 1)


@pytest.mark.parametrize(
    ("statement", "read"),
    [
        ("UPDATE items SET text = X'00'", "get"),
        ("UPDATE items SET attributes = X'00'", "get"),
        ("UPDATE items SET content_digest = X'00'", "digests"),
        ("UPDATE items SET sequence = 9", "get"),
        ("UPDATE items SET id = X'62' WHERE id = X'61'", "list"),
        ("UPDATE items SET crc = crc + 1", "get"),
        ("UPDATE vectors SET vector = zeroblob(64)", "get"),
        ("UPDATE vectors SET label = label + 1", "get"),
        ("UPDATE thumbnails SET thumbnail = X'00'", "thumbnails"),
    ],
)
def test_a_changed_row_is_never_served(
    path: Path, store: Store, reader: StoreReader, statement: str, read: str
) -> None:
    """Whichever field of a row changes behind the store's back, reading it raises DataLossError."""
    _put(store, Record("a", VECTORS[0], {"year": 2026}, "text", b"thumbnail", b"digest"))
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()
    reads: dict[str, Callable[[], object]] = {
        "get": lambda: reader.get(["a"]),
        "digests": lambda: reader.digests(["a"]),
        "list": lambda: reader.list_after("", 10),
        "thumbnails": lambda: reader.thumbnails(["a"]),
    }
    with pytest.raises(DataLossError, match="fails its checksum"):
        reads[read]()


def test_writing_a_damaged_item_again_heals_it(path: Path, store: Store, reader: StoreReader) -> None:
    """A damaged vector does not count as equal, so an upsert replaces it; a damaged item can be deleted."""
    _put(store, Record("a", VECTORS[0]), Record("b", VECTORS[1]))
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE vectors SET vector = zeroblob(64)")
    connection.execute("UPDATE items SET text = X'00'")
    connection.close()
    _put(store, Record("a", VECTORS[0]))
    [item] = reader.get(["a"])
    assert item is not None
    assert np.array_equal(item.vector, VECTORS[0])
    with store.transaction() as transaction:
        assert transaction.remove("b")
    assert reader.get(["b"]) == [None]


def test_damaged_counters_are_noticed_at_opening(path: Path) -> None:
    """A counter that could give a label out twice is refused."""
    connection = page_checksums.connect(path)
    connection.execute("UPDATE counters SET next_label = 7")
    connection.close()
    with pytest.raises(DataLossError, match="counters fail their checksum"):
        Store(path, durability="always")


def test_after_a_failed_commit_writes_are_refused_and_reads_go_on(
    store: Store, reader: StoreReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused commit is not acknowledged, no later write is tried, and what was there stays readable."""
    _put(store, Record("a", VECTORS[0]))

    def fail(*_arguments: object) -> None:
        raise apsw.IOError("disk I/O error")

    monkeypatch.setattr(store, "_write_counters", fail)
    with pytest.raises(UnavailableError, match="disk I/O error"):
        _put(store, Record("b", VECTORS[1]))
    monkeypatch.undo()
    with pytest.raises(UnavailableError, match="disk I/O error"):
        _put(store, Record("c", VECTORS[2]))
    assert [item is not None for item in reader.get(["a", "b", "c"])] == [True, False, False]


def test_the_log_is_folded_only_on_demand(path: Path, store: Store) -> None:
    """SQLite never checkpoints by itself, since it would swallow errors; `checkpoint` does, and the log starts anew."""
    for at in range(300):
        _put(store, Record(f"{at}", VECTORS[at % 10], text="x" * 20_000))
    assert store.log_pages > 1000
    assert path.stat().st_size < 200_000
    store.checkpoint()
    assert path.stat().st_size > 1_000_000
    _put(store, Record("next", VECTORS[0]))
    assert store.log_pages < 20


def test_damage_to_a_log_that_is_folded_harms_nothing(path: Path, store: Store, tmp_path: Path) -> None:
    """What the main file has already is given up in the log: else its older pages would come before the newer ones."""
    for at in range(40):
        _put(store, Record(f"{at}", VECTORS[at % 10], text="x" * 2_000))
    store.checkpoint()
    log = Path(f"{path}-wal").read_bytes()
    frames = range(32, len(log), 24 + 8192)
    assert len(frames) > 40
    for number, start in enumerate(frames):
        copy = tmp_path / f"{number}.sqlite3"
        shutil.copy(path, copy)
        Path(f"{copy}-wal").write_bytes(log[: start + 600] + bytes(512) + log[start + 1112 :])
        opened = Store(copy, durability="always")
        try:
            assert (opened.sequence, opened.next_label) == (40, 41)
            assert opened._connection.execute("SELECT count(*) FROM items").get == 40
            assert opened._connection.execute("PRAGMA integrity_check").get == "ok"
        finally:
            opened.close()


def test_a_store_that_a_tool_holds_is_unavailable_for_the_time(path: Path, store: Store) -> None:
    """Another program's write lock fails the write, and the next one succeeds once the lock is gone."""
    store._connection.set_busy_timeout(1)
    tool = apsw.Connection(str(path))
    tool.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnavailableError, match="locked by another program"):
        _put(store, Record("a", VECTORS[0]))
    tool.execute("ROLLBACK")
    tool.close()
    assert len(_put(store, Record("a", VECTORS[0]))) == 1
