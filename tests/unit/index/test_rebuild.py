"""Rebuilding while the process may die at any step."""

import contextlib
from pathlib import Path

import pytest

from clip_search_server.index import Collection, IndexSettings, Record, page_checksums
from clip_search_server.index.check_collection import CollectionCheck
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
