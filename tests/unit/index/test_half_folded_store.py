"""The power fails, or the process dies, while SQLite's log is being folded into the store."""

import shutil
from pathlib import Path

import pytest

from clip_search_server.errors import DataLossError
from clip_search_server.index import Collection, IndexSettings, Record
from clip_search_server.index.check_collection import CollectionCheck
from clip_search_server.index.schema import STORE_NAME, read_identity, store_path
from tests.unit.index.support import DIM, SPACE, model_of, random_vectors

PAGE_BYTES = 8192
VECTORS = random_vectors(400, seed=3)


def _open(folder: Path) -> Collection:
    return Collection.open(folder, dim=DIM, space_id=SPACE, settings=IndexSettings(checkpoint_pages=1_000_000))


@pytest.fixture
def half_folded(tmp_path: Path) -> tuple[Path, bytes]:
    """A collection that ended with everything in its log, and its store as it is once the log is folded in."""
    living, dead = tmp_path / "living", tmp_path / "dead"
    collection = _open(living)
    for start in range(0, len(VECTORS), 100):
        collection.upsert([Record(f"item {at}", VECTORS[at], {}) for at in range(start, start + 100)])
    shutil.copytree(living, dead, ignore=shutil.ignore_patterns("*-shm", "lock"))
    collection.close()
    return dead, store_path(living).read_bytes()


@pytest.mark.parametrize("folded_bytes", [512, PAGE_BYTES, PAGE_BYTES + 4096])
def test_open_on_a_torn_fold(half_folded: tuple[Path, bytes], folded_bytes: int) -> None:
    """A store of which only the first bytes were folded opens with every item: its log has the rest."""
    folder, folded = half_folded
    store = store_path(folder)
    store.write_bytes(folded[:folded_bytes] + store.read_bytes()[folded_bytes:])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert (read_identity(store).space_id, read_identity(store).dim) == (SPACE, DIM)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    report = CollectionCheck("dead", folder, settings=IndexSettings(), report=lambda _line: None).run()
    assert (report.found, report.items) == ([], len(VECTORS))
    collection = _open(folder)
    try:
        assert set(model_of(collection)) == {f"item {at}" for at in range(len(VECTORS))}
        assert collection.stats().damage == ()
    finally:
        collection.close()


def test_a_torn_fold_does_not_excuse_a_damaged_identity(half_folded: tuple[Path, bytes]) -> None:
    """Where the page that says whose store it is fails its checksum as well, the store is refused."""
    folder, folded = half_folded
    store = store_path(folder)
    content = bytearray(folded[:512] + store.read_bytes()[512:])
    content[content.index(SPACE.encode())] ^= 1
    store.write_bytes(content)
    with pytest.raises(DataLossError, match=STORE_NAME):
        _open(folder)
