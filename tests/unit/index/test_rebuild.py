"""Rebuilding while the process may die at any step."""

import contextlib
from pathlib import Path

import pytest

from clip_search_server.index import Collection, IndexSettings, Record, page_checksums
from clip_search_server.index.check_collection import CollectionCheck
from clip_search_server.index.compaction import compact_store
from clip_search_server.index.findings import CollectionReport
from clip_search_server.index.rebuild import rebuild_collection
from clip_search_server.index.schema import store_path
from tests.unit.index.crashes import CrashError, crash_at
from tests.unit.index.support import DIM, SPACE, BruteForceEngine, random_vectors, silent, wait_until

VECTORS = random_vectors(130, seed=3)
SETTINGS = IndexSettings(tail_rows_max=64)


def _answers(folder: Path) -> object:
    collection = Collection.open(
        folder, dim=DIM, space_id=SPACE, settings=SETTINGS, engine=BruteForceEngine(), progress=silent
    )
    try:
        stats = collection.stats()
        assert stats.damage == ()
        assert stats.segments, "the segments were lost, and built again from the store"
        return (collection.sequence, collection.search(VECTORS[0], limit=200).neighbours)
    finally:
        collection.close()


def test_a_crash_at_any_step_leaves_the_old_or_the_new_generation(tmp_path: Path) -> None:
    """Whichever step is the last, the collection opens from whole segments and answers as before."""
    folder = tmp_path / "collection"
    collection = Collection.open(folder, dim=DIM, space_id=SPACE, settings=SETTINGS, engine=BruteForceEngine())
    for first in (0, 64):
        collection.upsert([Record(f"{at}", VECTORS[at]) for at in range(first, first + 65)])
        wait_until(lambda: collection.stats().tail_row_count < 64)
    collection.snapshot()
    collection.close()
    before = _answers(folder)
    for step in range(1, 200):
        crashed = False
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step)
            try:
                rebuild_collection(folder, "it", report=silent, settings=SETTINGS, engine=BruteForceEngine())
            except CrashError:
                crashed = True
        assert _answers(folder) == before, f"crash at step {step}"
        if not crashed:
            break
    else:
        pytest.fail("the rebuild never ran to its end")
    assert len(list((folder / "segments").glob("*.graph"))) == 1


def test_what_filters_find_items_by_is_checked_and_made_anew(tmp_path: Path) -> None:
    """An entry that is lost is named by a check, which changes nothing, and is back after a rebuild."""
    data = tmp_path / "data"
    folder = data / "collections" / "it"
    collection = Collection.open(folder, dim=DIM, space_id=SPACE, settings=SETTINGS)
    collection.upsert([Record(f"{at}", VECTORS[at], {"year": 2000 + at}, f"text {at}") for at in range(20)])
    collection.close()
    with contextlib.closing(page_checksums.connect(store_path(folder))) as connection:
        connection.execute("DELETE FROM attributes WHERE label = 7")

    def check() -> CollectionReport:
        return CollectionCheck("it", folder, settings=SETTINGS, report=silent).run()

    (finding,) = check().found
    assert "index of attributes does not say what its row says" in finding.problem
    assert "clip-search rebuild" in finding.remedy
    assert check().found == [finding]
    rebuild_collection(folder, "it", report=silent, settings=SETTINGS)
    assert check().found == []


def _held(collection: Collection) -> object:
    """Return all that the collection has to say of its items."""
    items = collection.list_items(limit=1000)
    return collection.sequence, [(item.id, item.sequence, item.text, item.vector.tobytes()) for item in items]


def test_a_rebuilt_store_takes_no_more_room_than_a_new_one(tmp_path: Path) -> None:
    """Of what deleted rows took nothing is left; counters, items and page checksums are as they were."""
    folder, fresh = tmp_path / "collection", tmp_path / "fresh"
    vectors = random_vectors(1000, seed=5)
    collection = Collection.open(folder, dim=DIM, space_id=SPACE, settings=SETTINGS, engine=BruteForceEngine())
    collection.upsert([Record(f"{at}", vectors[at], text="words") for at in range(1000)])
    collection.delete([f"{at}" for at in range(200, 1000)])
    held = _held(collection)
    collection.close()
    collection = Collection.open(fresh, dim=DIM, space_id=SPACE, settings=SETTINGS, engine=BruteForceEngine())
    collection.upsert([Record(f"{at}", vectors[at], text="words") for at in range(200)])
    collection.close()
    assert store_path(folder).stat().st_size > 1.2 * store_path(fresh).stat().st_size
    lines: list[str] = []
    rebuild_collection(folder, "it", report=lines.append, settings=SETTINGS, engine=BruteForceEngine())
    assert store_path(folder).stat().st_size <= 1.1 * store_path(fresh).stat().st_size
    assert any("the store takes" in line for line in lines)
    assert page_checksums.has_checksums(store_path(folder)) == page_checksums.available()
    collection = Collection.open(folder, dim=DIM, space_id=SPACE, settings=SETTINGS, engine=BruteForceEngine())
    assert _held(collection) == held
    collection.upsert([Record("another", VECTORS[0])])
    collection.close()


def test_a_store_that_cannot_be_copied_keeps_its_size(tmp_path: Path) -> None:
    """Where a page fails its checksum, or another program keeps the log, the store is left alone and that is said."""
    collection = Collection.open(tmp_path, dim=DIM, space_id=SPACE, settings=SETTINGS, engine=BruteForceEngine())
    collection.upsert([Record(f"{at}", VECTORS[at]) for at in range(60)])
    collection.close()
    path = store_path(tmp_path)
    whole = path.read_bytes()
    log = Path(f"{path}-wal")
    lines: list[str] = []
    log.write_bytes(b"log")
    compact_store(path, lines.append)
    log.unlink()
    damaged = bytearray(whole)
    damaged[-3000] ^= 1
    path.write_bytes(damaged)
    compact_store(path, lines.append)
    assert path.read_bytes() == damaged
    assert ["keeps its size" in line for line in lines] == [True, True]
    assert list(tmp_path.glob("*.tmp")) == []
