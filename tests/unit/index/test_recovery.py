"""What a collection does with the files that the last process, or the disk, left behind."""

import hashlib
import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from clip_search_server.errors import DataLossError, FailedPreconditionError, SpaceMismatchError
from clip_search_server.index import Collection, IndexSettings, Record
from tests.unit.index.conftest import OpenCollection
from tests.unit.index.support import DIM, SPACE, exact_neighbours, flip, model_of, random_vectors, wait_until

VECTORS = random_vectors(300, seed=1)
QUERIES = random_vectors(5, seed=2)
# As many candidates as there are vectors: graphs this small answer as a scan does.
SETTINGS = IndexSettings(tail_rows_max=64, segments_max=8, ef_min=400)


def _fill(collection: Collection) -> None:
    """Store 300 items of which the first 250 or so end in segments, then delete and update some."""
    for first in range(0, 256, 64):
        collection.upsert([Record(f"item {at}", VECTORS[at], text=f"text {at}") for at in range(first, first + 64)])
        wait_until(lambda: collection.stats().tail_row_count == 0)
    collection.delete([f"item {at}" for at in range(0, 100, 9)])
    collection.upsert([Record(f"item {at}", VECTORS[at - 1]) for at in range(250, 290)])


def _assert_equals_its_store(collection: Collection) -> None:
    model = model_of(collection)
    assert collection.stats().item_count == len(model)
    for query in QUERIES:
        wanted = exact_neighbours(model, query, 20)
        assert list(collection.search(query, limit=20).neighbours) == wanted
        assert list(collection.search(query, limit=20, exact=True).neighbours) == wanted


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


@pytest.fixture
def folder(tmp_path: Path, open_collection: OpenCollection) -> Path:
    """The folder of a closed collection with segments, two generations and a tail."""
    collection = open_collection(SETTINGS)
    _fill(collection)
    collection.snapshot()
    wait_until(lambda: collection._builder._published.is_set() is False)
    collection.close()
    return tmp_path / "collection"


def test_a_restart_changes_nothing(open_collection: OpenCollection, folder: Path, reported: list[str]) -> None:
    """Items, sequence and answers after a restart are those before, from the segments that were there."""
    before = open_collection(SETTINGS)
    model, stats = model_of(before), before.stats()
    answers = [before.search(query, limit=20) for query in QUERIES]
    before.close()
    after = open_collection(SETTINGS)
    assert {item_id: vector.tobytes() for item_id, vector in model_of(after).items()} == {
        item_id: vector.tobytes() for item_id, vector in model.items()
    }
    assert [after.search(query, limit=20) for query in QUERIES] == answers
    assert after.stats() == stats
    assert stats.segments
    assert stats.damage == ()
    assert not any("damage" in line for line in reported)
    _assert_equals_its_store(after)


def test_sequences_go_on_after_a_restart(open_collection: OpenCollection, folder: Path) -> None:
    """The sequence is monotonic across restarts."""
    collection = open_collection(SETTINGS)
    sequence = collection.sequence
    assert sequence > 300
    assert collection.upsert([Record("new", VECTORS[0])]).results == (sequence + 1,)


@pytest.mark.parametrize("kind", ["graph", "vectors", "rows"])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_flipped_byte_in_a_segment_is_noticed(
    open_collection: OpenCollection, folder: Path, kind: str, place: float
) -> None:
    """The damaged segment is reported and left out; its items are served from the store, and sealed anew."""
    path = min((folder / "segments").glob(f"*.{kind}"))
    flip(path, int(place * path.stat().st_size))
    collection = open_collection(SETTINGS)
    assert any(path.name in sentence and "SHA-256" in sentence for sentence in collection.stats().damage)
    _assert_equals_its_store(collection)
    wait_until(lambda: collection.stats().tail_row_count < 64)
    _assert_equals_its_store(collection)
    collection.close()
    again = open_collection(SETTINGS)
    _assert_equals_its_store(again)


@pytest.mark.parametrize("harm", ["truncated", "missing", "longer"])
def test_a_segment_file_of_another_size_is_noticed(open_collection: OpenCollection, folder: Path, harm: str) -> None:
    """Truncation, loss and growth of a file are reported, and nothing is missing from the answers."""
    path = min((folder / "segments").glob("*.graph"))
    whole = path.read_bytes()
    path.unlink()
    if harm != "missing":
        path.write_bytes(whole[:-1] if harm == "truncated" else whole + b"\0")
    collection = open_collection(SETTINGS)
    assert any(path.name in sentence for sentence in collection.stats().damage)
    _assert_equals_its_store(collection)


@pytest.mark.parametrize("harm", ["flipped", "truncated", "empty"])
def test_a_damaged_manifest_gives_way_to_the_one_before(
    open_collection: OpenCollection, folder: Path, reported: list[str], harm: str
) -> None:
    """The newest whole generation is loaded, and the damaged one is reported."""
    newest = max((folder / "generations").iterdir())
    if harm == "flipped":
        flip(newest, newest.read_bytes().index(b'"rows"') + 40)
    else:
        newest.write_bytes(newest.read_bytes()[:200] if harm == "truncated" else b"")
    collection = open_collection(SETTINGS)
    assert [sentence for sentence in collection.stats().damage if newest.name in sentence]
    assert collection.stats().segments, "the generation before was not used"
    _assert_equals_its_store(collection)


def test_without_any_generation_all_is_rebuilt_from_the_store(open_collection: OpenCollection, folder: Path) -> None:
    """Losing `generations` and `segments` loses nothing: the graphs are built anew in the background."""
    shutil.rmtree(folder / "generations")
    shutil.rmtree(folder / "segments")
    collection = open_collection(SETTINGS)
    _assert_equals_its_store(collection)
    wait_until(lambda: collection.stats().tail_row_count < 64 and collection.stats().generation is not None)
    assert collection.stats().segments
    _assert_equals_its_store(collection)


def test_leftovers_of_a_crash_are_ignored_and_removed(open_collection: OpenCollection, folder: Path) -> None:
    """Temporary files go at opening, and segments that nobody names once the next generation is published."""
    (folder / "segments" / "0123456789abcdef.graph.tmp").write_bytes(b"half")
    (folder / "generations" / "00000099.json.tmp").write_bytes(b"half")
    orphan = folder / "segments" / "0123456789abcdef.graph"
    orphan.write_bytes(b"whole but never named")
    collection = open_collection(SETTINGS)
    assert not list(folder.rglob("*.tmp"))
    assert orphan.exists()
    _assert_equals_its_store(collection)
    collection.snapshot()
    wait_until(lambda: not orphan.exists())
    assert collection.stats().damage == ()


def test_a_damaged_row_is_reported_and_never_served(open_collection: OpenCollection, folder: Path) -> None:
    """One flipped byte in a stored vector: reading it fails, searching leaves it out, everything else is served."""
    for name in ("generations", "segments"):
        shutil.rmtree(folder / name)
    path = folder / "store.sqlite3"
    vector = VECTORS[100].tobytes()
    # SQLite may keep a stale copy in unused space: the byte is flipped wherever the vector lies.
    path.write_bytes(path.read_bytes().replace(vector, vector[:7] + bytes([vector[7] ^ 1]) + vector[8:]))
    collection = open_collection(SETTINGS)
    assert len(collection.stats().damage) == 1
    assert "item 100" not in {hit.id for hit in collection.search(VECTORS[100], limit=300).neighbours}
    with pytest.raises(DataLossError, match="fails its checksum"):
        collection.get(["item 100"])
    assert collection.get(["item 101"]) != [None]
    collection.upsert([Record("item 100", VECTORS[100])])
    assert collection.get(["item 100"]) != [None]
    _assert_equals_its_store(collection)


@pytest.mark.parametrize("harm", ["zeroed", "truncated", "empty"])
def test_a_damaged_store_is_refused(open_collection: OpenCollection, folder: Path, harm: str) -> None:
    """The store itself cannot be rebuilt: damage to its first page is an error that says what to do."""
    path = folder / "store.sqlite3"
    whole = path.read_bytes()
    path.write_bytes({"zeroed": bytes(4096) + whole[4096:], "truncated": whole[:50], "empty": b""}[harm])
    with pytest.raises(DataLossError, match="restore it from a backup"):
        open_collection(SETTINGS)


def test_a_missing_store_is_not_replaced_by_an_empty_one(open_collection: OpenCollection, folder: Path) -> None:
    """Generations without their store are a loss to report, not a new collection."""
    (folder / "store.sqlite3").unlink()
    with pytest.raises(DataLossError, match="is missing although"):
        open_collection(SETTINGS)
    assert not (folder / "store.sqlite3").exists()


def test_a_store_behind_its_generation_is_reported_and_labels_stay_unused(
    open_collection: OpenCollection, folder: Path, tmp_path: Path
) -> None:
    """An older copy of the store put back: the loss is reported, nothing wrong is served, sequences go on."""
    older = tmp_path / "older.sqlite3"
    shutil.copy(folder / "store.sqlite3", older)
    collection = open_collection(SETTINGS)
    collection.upsert([Record(f"later {at}", VECTORS[at + 200]) for at in range(70)])
    wait_until(lambda: collection.stats().tail_row_count < 64)
    reached = collection.snapshot().sequence
    collection.close()
    shutil.copy(older, folder / "store.sqlite3")
    collection = open_collection(SETTINGS)
    assert any("although" in sentence for sentence in collection.stats().damage)
    assert collection.upsert([Record("newest", VECTORS[299])]).results == (reached + 1,)
    _assert_equals_its_store(collection)
    collection.close()
    _assert_equals_its_store(open_collection(SETTINGS))


@pytest.mark.parametrize(("dim", "space"), [(DIM, "another space"), (DIM + 1, SPACE)])
def test_another_space_is_refused_untouched(folder: Path, dim: int, space: str) -> None:
    """Vectors of another model or size are refused with both named, and no byte of the folder changes."""
    before = _contents(folder)
    with pytest.raises(SpaceMismatchError, match="nothing was changed") as caught:
        Collection.open(folder, dim=dim, space_id=space)
    assert all(str(name) in str(caught.value) for name in ((DIM, dim) if dim != DIM else (SPACE, space)))
    assert _contents(folder) == before


def test_a_newer_format_is_refused_untouched(folder: Path) -> None:
    """A store that a later release wrote is refused with both versions, and no byte of the folder changes."""
    connection = sqlite3.connect(folder / "store.sqlite3")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    before = _contents(folder)
    with pytest.raises(FailedPreconditionError, match="format 2, newer than the 1"):
        Collection.open(folder, dim=DIM, space_id=SPACE)
    assert _contents(folder) == before


def test_a_second_opening_is_refused(open_collection: OpenCollection) -> None:
    """One folder, one server; after closing, the next may have it."""
    collection = open_collection()
    with pytest.raises(FailedPreconditionError, match="in use by another server"):
        open_collection()
    collection.close()
    open_collection().close()


def test_a_failed_opening_lets_the_folder_go(open_collection: OpenCollection, folder: Path) -> None:
    """An opening that fails leaves neither lock nor thread behind."""
    with pytest.raises(SpaceMismatchError):
        Collection.open(folder, dim=DIM, space_id="another space")
    _assert_equals_its_store(open_collection(SETTINGS))


def test_segments_of_a_missing_engine_are_built_anew(
    open_collection: OpenCollection, folder: Path, reported: list[str]
) -> None:
    """A segment whose engine is not installed is reported, its items are served, and sealed anew; that is no damage."""
    for path in (folder / "generations").iterdir():
        outer = json.loads(path.read_bytes())
        for segment in outer["body"]["segments"]:
            segment["engine"] = "another"
        text = json.dumps(outer["body"], sort_keys=True, separators=(",", ":"))
        outer["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps(outer))
    collection = open_collection(SETTINGS)
    assert any("engine 'another': this release knows" in line for line in reported)
    assert collection.stats().damage == ()
    _assert_equals_its_store(collection)
    wait_until(lambda: collection.stats().tail_row_count < 64)
    _assert_equals_its_store(collection)


def test_interval_durability_survives_a_clean_restart(open_collection: OpenCollection) -> None:
    """Under `interval` a snapshot syncs first, and closing loses nothing."""
    settings = replace(SETTINGS, durability="interval", sync_interval_seconds=3600.0)
    collection = open_collection(settings)
    _fill(collection)
    collection.snapshot()
    sequence = collection.sequence
    collection.close()
    collection = open_collection(settings)
    assert collection.sequence == sequence
    assert collection.stats().damage == ()
    _assert_equals_its_store(collection)
