"""What page checksums notice that checksums of rows cannot, and what goes on being served all the same."""

from pathlib import Path

import apsw
import pytest

from clip_search_server.errors import DataLossError, FailedPreconditionError
from clip_search_server.index import Collection, Record, Search, page_checksums
from clip_search_server.index.schema import create_store, format_version_of, read_identity
from tests.unit.index.conftest import OpenCollection
from tests.unit.index.support import DIM, random_vectors

PAGE_BYTES = 8192
LEAF_OF_AN_INDEX = 0x0A
LEAF_OF_A_TABLE = 0x0D
VECTORS = random_vectors(600, seed=4)


@pytest.fixture
def store(open_collection: OpenCollection, tmp_path: Path) -> Path:
    """The closed store of 600 items."""
    collection = open_collection()
    collection.upsert([Record(f"item {at:04}", VECTORS[at], text="word " * 20) for at in range(600)])
    collection.close()
    return tmp_path / "collection" / "store.sqlite3"


def _pages_of(store: Path, table: str) -> list[int]:
    connection = apsw.Connection(f"file:{store}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        found = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,)
        ).fetchall()
        return [int(str(number)) for (number,) in found]
    finally:
        connection.close()


def _flip(store: Path, page: int, at: int) -> None:
    content = bytearray(store.read_bytes())
    content[(page - 1) * PAGE_BYTES + at] ^= 1
    store.write_bytes(content)


def test_the_wheel_brings_the_extension() -> None:
    """The dependency that is installed here offers page checksums; other connections are left without them."""
    assert page_checksums.available()
    assert apsw.vfs_names()[0] != "cksmvfs"


def test_a_new_store_has_page_checksums(store: Path) -> None:
    """Byte 20 of the header says so, and any SQLite can still read the file."""
    assert store.read_bytes()[20] == page_checksums.RESERVED_BYTES
    plain = apsw.Connection(str(store))
    assert plain.execute("SELECT count(*) FROM items").get == 600
    plain.close()


def test_a_flipped_bit_in_the_index_of_ids_is_noticed(open_collection: OpenCollection, store: Path) -> None:
    """A page that no CRC of a row covers: without its checksum the item would silently be missing."""
    page = _pages_of(store, "sqlite_autoindex_items_1")[0]
    _flip(store, page, PAGE_BYTES - 8 - 3)  # in the last cell of the page: the first id, "item 0000"
    collection = open_collection()
    with pytest.raises(DataLossError, match="a page fails its checksum"):
        collection.get(["item 0000"])
    with pytest.raises(DataLossError, match="a page fails its checksum"):
        collection.upsert([Record("item 0000", VECTORS[1])])
    assert collection.get(["item 0599"]) != [None]
    assert collection.upsert([Record("item 0599", VECTORS[0])]).replaced == (True,)
    assert any("a page fails its checksum" in sentence for sentence in collection.stats().damage)


@pytest.mark.parametrize("table", ["items", "vectors"])
def test_the_neighbours_of_a_damaged_row_are_served(open_collection: OpenCollection, store: Path, table: str) -> None:
    """One wrong byte costs one item, not all whose rows lie on the same page."""
    before = store.read_bytes()
    page = _pages_of(store, table)[1]
    start = (page - 1) * PAGE_BYTES
    assert before[start] == LEAF_OF_A_TABLE
    _flip(store, page, PAGE_BYTES - 8 - 30)  # in the last cell: the row of the smallest label of the page
    collection = open_collection()
    damaged = []
    for at in range(600):
        try:
            (item,) = collection.get([f"item {at:04}"])
            assert item is not None
            assert item.vector.tobytes() == VECTORS[at].tobytes()
        except DataLossError:
            damaged.append(f"item {at:04}")
    assert len(damaged) == 1
    found = collection.search(VECTORS[300], limit=600, exact=True)
    assert len(found.neighbours) >= 599


@pytest.mark.parametrize("table", ["items", "vectors"])
def test_hits_beside_a_damaged_row_are_found(open_collection: OpenCollection, store: Path, table: str) -> None:
    """A search that hits neighbours of a damaged row returns them; one that hits the row itself names it."""
    page = _pages_of(store, table)[1]
    collection = open_collection()
    while collection._reader._idle:  # They have read the page.
        collection._reader._idle.pop().close()
    _flip(store, page, PAGE_BYTES - 8 - 30)
    (damaged,) = (at for at in range(600) if _is_damaged(collection, f"item {at:04}"))
    for at in range(600):
        search = Search(VECTORS[at], limit=1)
        if at == damaged:
            with pytest.raises(DataLossError, match=r"fails its checksum"):
                collection.find(search)
        else:
            (hit,) = collection.find(search).hits
            assert (hit.item.id, hit.item.vector.tobytes()) == (f"item {at:04}", VECTORS[at].tobytes())


@pytest.mark.parametrize("how", ["upsert", "delete"])
def test_a_damaged_vector_can_be_replaced(open_collection: OpenCollection, store: Path, how: str) -> None:
    """Writing the item again, or deleting it, mends the page; its neighbours are whole all along."""
    page = _pages_of(store, "vectors")[1]
    _flip(store, page, PAGE_BYTES - 8 - 30)
    collection = open_collection()
    (damaged,) = (at for at in range(600) if _is_damaged(collection, f"item {at:04}"))
    if how == "delete":
        assert collection.delete([f"item {damaged:04}"]).deleted == 1
    else:
        collection.upsert([Record(f"item {damaged:04}", VECTORS[damaged])])
    assert not any(_is_damaged(collection, f"item {at:04}") for at in range(600))
    collection.close()
    open_collection().close()


def _is_damaged(collection: Collection, item_id: str) -> bool:
    try:
        collection.get([item_id])
    except DataLossError:
        return True
    return False


def test_without_the_extension_such_a_store_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages written without it would fail ever after; the message says what to install, and nothing is touched."""
    before = store.read_bytes()
    monkeypatch.setattr(page_checksums, "available", lambda: False)
    with pytest.raises(FailedPreconditionError, match="install apsw from its wheel"):
        read_identity(store)
    assert store.read_bytes() == before


def test_without_the_extension_new_stores_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation whose SQLite lacks it still works, on the checksums of rows alone."""
    monkeypatch.setattr(page_checksums, "available", lambda: False)
    create_store(tmp_path / "store.sqlite3", space_id="space", dim=DIM)
    assert (tmp_path / "store.sqlite3").read_bytes()[20] == 0
    assert format_version_of(tmp_path / "store.sqlite3") == 1
