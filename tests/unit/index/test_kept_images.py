"""Pictures live exactly as long as an item that was made from them, within the budget; damage is never given out."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from clip_search_server.errors import DataLossError, FailedPreconditionError, UnavailableError
from clip_search_server.index import Collection, DataFolder, ImageBudget, KeptImages, Record, Space
from clip_search_server.index.backup import back_up
from clip_search_server.index.check import check_data
from clip_search_server.index.image_file import images_path
from clip_search_server.index.restore import restore
from tests.unit.index.support import DIM, SPACE, random_vectors, silent, wait_until

VECTORS = random_vectors(50, seed=3)
ROOMY = 10_000_000


def picture(name: str, size: int = 1_000) -> bytes:
    """Bytes that differ by name."""
    return (name.encode() * size)[:size]


def digest_of(image: bytes) -> bytes:
    """A digest of the contents of items."""
    return hashlib.sha256(image).digest()


def record(item_id: str, image: bytes, *, vector: int = 0) -> Record:
    """An item made from a picture."""
    return Record(item_id, VECTORS[vector], content_digest=digest_of(image), image=image)


class Kept:
    """A collection with its kept pictures, as a server has them."""

    def __init__(self, folder: Path, budget: ImageBudget, report: Callable[[str], None]) -> None:
        self.collection = Collection.open(folder, dim=DIM, space_id=SPACE)
        self.images = KeptImages(folder, budget, self.collection.digests, self.collection.sync, report)

    def upsert(self, *records: Record) -> None:
        """Store items with their pictures."""
        with self.images.keeping(records):
            self.collection.upsert(records)

    def delete(self, *ids: str) -> None:
        """Delete items with their pictures."""
        self.collection.delete(ids)
        self.images.forget(ids)

    def of(self, item_id: str) -> bytes | None:
        """The picture of an item."""
        (digest,) = self.collection.digests([item_id])
        return None if digest is None else self.images.get(digest)

    def figures(self) -> tuple[int, int, int]:
        """Pictures, bytes, and items that went without."""
        stats = self.images.stats()
        assert stats is not None
        return stats.images, stats.bytes, stats.left_out

    def close(self) -> None:
        """Close both."""
        self.images.close()
        self.collection.close()


@pytest.fixture
def told() -> list[str]:
    """What was reported."""
    return []


@pytest.fixture
def open_kept(tmp_path: Path, told: list[str]) -> Iterator[Callable[..., Kept]]:
    """Open the same collection, again if need be, with so much room."""
    opened: list[Kept] = []

    def open_it(bytes_max: int = ROOMY) -> Kept:
        opened.append(Kept(tmp_path / "collection", ImageBudget(bytes_max), told.append))
        return opened[-1]

    yield open_it
    for kept in opened:
        kept.close()


def test_a_picture_comes_back_as_it_was_sent_also_after_a_restart(open_kept: Callable[..., Kept]) -> None:
    """Byte for byte."""
    kept = open_kept()
    kept.upsert(record("a", picture("a")), record("b", picture("b", 300_000)))
    kept.close()
    kept = open_kept()
    assert (kept.of("a"), kept.of("b")) == (picture("a"), picture("b", 300_000))
    assert kept.figures() == (2, 301_000, 0)


def test_equal_pictures_are_kept_once_and_as_long_as_one_item_needs_them(open_kept: Callable[..., Kept]) -> None:
    """The last item takes the picture with it."""
    kept = open_kept()
    kept.upsert(record("a", picture("same")), record("b", picture("same")))
    assert kept.figures() == (1, 1_000, 0)
    kept.delete("a")
    assert kept.of("b") == picture("same")
    kept.delete("b")
    assert kept.figures() == (0, 0, 0)
    assert kept.images.get(digest_of(picture("same"))) is None


def test_replacing_an_item_replaces_its_picture(open_kept: Callable[..., Kept]) -> None:
    """By another picture, or by none where the new content is no picture; attributes alone change nothing."""
    kept = open_kept()
    kept.upsert(record("a", picture("old")))
    kept.upsert(Record("a", None, {"year": 2020}))
    assert kept.of("a") == picture("old")
    kept.upsert(record("a", picture("new"), vector=1))
    assert kept.of("a") == picture("new")
    assert kept.images.get(digest_of(picture("old"))) is None
    kept.upsert(Record("a", VECTORS[2]))
    assert kept.figures() == (0, 0, 0)


def test_an_item_that_is_refused_leaves_no_picture_and_keeps_its_old_one(open_kept: Callable[..., Kept]) -> None:
    """What is stored under its id is unchanged, the picture included."""
    kept = open_kept()
    kept.upsert(record("a", picture("old")))
    refused = Record("a", VECTORS[1] * float("nan"), content_digest=digest_of(picture("new")), image=picture("new"))
    kept.upsert(refused)
    assert kept.of("a") == picture("old")
    assert kept.figures() == (1, 1_000, 0)


def test_a_picture_is_on_the_disk_before_its_item(open_kept: Callable[..., Kept], tmp_path: Path) -> None:
    """Whoever opens the file then finds it, so that no item is acknowledged without its picture."""
    kept = open_kept()
    with kept.images.keeping([record("a", picture("a"))]):
        connection = apsw.Connection(str(images_path(tmp_path / "collection")), flags=apsw.SQLITE_OPEN_READONLY)
        assert connection.execute("SELECT count(*) FROM images").get == 1
        assert connection.pragma("journal_mode") == "wal"
        connection.close()
        kept.collection.upsert([record("a", picture("a"))])


def test_nobody_removes_the_picture_of_an_item_that_is_about_to_be_committed(open_kept: Callable[..., Kept]) -> None:
    """A deletion of the same id that comes in between leaves it, and so does a sweep."""
    kept = open_kept()
    kept.upsert(record("a", picture("old")))
    with kept.images.keeping([record("a", picture("new"))]):
        kept.images.forget(["a"])
        kept.images.sweep_soon()
        wait_until(lambda: kept.images._sweeper is None)
        kept.collection.upsert([record("a", picture("new"))])
    assert kept.of("a") == picture("new")
    assert kept.figures()[0] == 1


def test_what_a_crash_left_behind_is_swept_away(open_kept: Callable[..., Kept]) -> None:
    """A picture whose item was never committed is gone after the next start; the others stay."""
    kept = open_kept()
    kept.upsert(*(record(f"{at:04}", picture(f"{at:04}")) for at in range(1_200)))
    kept.collection.delete(["0003"])  # The process ends before the picture is removed,
    kept.images._put([record("never", picture("never"))])  # and before this one's item is committed.
    kept.close()
    kept = open_kept()
    wait_until(lambda: kept.figures() == (1_199, 1_199_000, 0))
    assert kept.of("0004") == picture("0004")


def test_beyond_the_budget_items_go_without_and_it_is_told_once(
    open_kept: Callable[..., Kept], told: list[str]
) -> None:
    """What is kept stays; room that becomes free is used again."""
    kept = open_kept(2_500)
    kept.upsert(*(record(f"{at}", picture(f"{at}")) for at in range(4)))
    assert kept.figures() == (2, 2_000, 2)
    assert [kept.of(f"{at}") is not None for at in range(4)] == [True, True, False, False]
    assert len(told) == 1
    assert "--keep-images" in told[0]
    kept.delete("0")
    kept.upsert(record("2", picture("2")))
    assert kept.of("2") == picture("2")


def test_collections_share_the_budget(tmp_path: Path, told: list[str]) -> None:
    """What one holds the other cannot use, until it is closed or deleted."""
    budget = ImageBudget(1_500)
    one, other = (Kept(tmp_path / name, budget, told.append) for name in ("one", "other"))
    one.upsert(record("a", picture("a")))
    other.upsert(record("b", picture("b")))
    assert other.of("b") is None
    one.close()
    other.upsert(record("b", picture("b")))
    assert other.of("b") == picture("b")
    other.close()


def test_without_room_for_any_nothing_is_kept_but_what_was_is_still_there(open_kept: Callable[..., Kept]) -> None:
    """A server started without --keep-images gives out and removes what an earlier one kept."""
    kept = open_kept(0)
    kept.upsert(record("a", picture("a")))
    assert kept.images.stats() is None
    assert not images_path(kept.images._path.parent).exists()
    kept.close()
    kept = open_kept()
    kept.upsert(record("a", picture("a")), record("b", picture("b")))
    kept.close()
    kept = open_kept(0)
    assert kept.of("a") == picture("a")
    kept.delete("a")
    kept.upsert(record("b", picture("c")))
    assert kept.figures()[:2] == (0, 0)


def test_a_full_disk_refuses_the_item_and_is_no_lasting_harm(open_kept: Callable[..., Kept]) -> None:
    """Nothing is stored, the figures do not move, and with room again the same item is."""
    kept = open_kept()
    kept.upsert(record("a", picture("a")))
    assert kept.images._writer is not None
    kept.images._writer.pragma("max_page_count", kept.images._writer.pragma("page_count"))
    with pytest.raises(UnavailableError, match=r"images\.sqlite3.*nothing was stored"):
        kept.upsert(record("b", picture("b", 200_000)))
    assert kept.collection.get(["b"]) == [None]
    assert kept.figures() == (1, 1_000, 0)
    kept.images._writer.pragma("max_page_count", 1 << 30)
    kept.upsert(record("b", picture("b", 200_000)))
    assert kept.of("b") == picture("b", 200_000)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a collection of twenty pictures, closed."""
    with DataFolder(tmp_path / "data", silent) as folder:
        folder.create("pets", Space(SPACE, DIM))
        kept = Kept(folder.folder_of("pets"), ImageBudget(ROOMY), silent)
        kept.upsert(*(record(f"{at:02}", picture(f"{at:02}", 40_000), vector=at) for at in range(20)))
        kept.close()
    return tmp_path / "data"


def _flip(data: Path, text: bytes) -> Path:
    """Flip a byte of the picture that is made of this text."""
    path = images_path(data / "collections" / "pets")
    content = bytearray(path.read_bytes())
    content[content.index(text * 50) + 20] ^= 1
    path.write_bytes(content)
    return path


def test_a_damaged_picture_is_reported_and_never_given_out(data: Path) -> None:
    """The check names it, asking for it is DATA_LOSS, and the others are as ever."""
    path = _flip(data, b"07")
    (found,) = check_data(data, report=silent).collections
    assert {finding.subject for finding in found.found} == {str(path)}
    assert any("pages fail their checksum" in finding.problem for finding in found.found)
    assert any("picture 8" in finding.problem for finding in found.found)
    kept = Kept(data / "collections" / "pets", ImageBudget(ROOMY), silent)
    with pytest.raises(DataLossError, match=r"images\.sqlite3"):
        kept.of("07")
    assert kept.of("08") == picture("08", 40_000)
    kept.close()


@pytest.mark.parametrize("how", ["foreign", "newer"])
def test_a_file_that_cannot_be_used_keeps_no_item_from_being_stored(data: Path, told: list[str], how: str) -> None:
    """It is told, pictures are left out and counted, and reading one gives the reason; the file is not touched."""
    path = images_path(data / "collections" / "pets")
    content = bytearray(path.read_bytes())
    content[slice(0, 4) if how == "foreign" else slice(60, 64)] = (9).to_bytes(4, "big")
    path.write_bytes(content)
    kept = Kept(data / "collections" / "pets", ImageBudget(ROOMY), told.append)
    assert len(told) == 1
    kept.upsert(record("new", picture("new"), vector=30))
    assert kept.collection.get(["new"]) != [None]
    with pytest.raises(DataLossError if how == "foreign" else FailedPreconditionError, match=r"images\.sqlite3"):
        kept.of("00")
    assert kept.figures()[2] == 1
    kept.close()
    assert path.read_bytes() == content


def test_backups_hold_the_pictures_and_a_restored_folder_has_them(data: Path, tmp_path: Path) -> None:
    """Every one, and the restored folder is whole."""
    made = back_up(data, tmp_path / "backups", report=silent)
    restore(made.path, tmp_path / "restored", report=silent)
    assert check_data(tmp_path / "restored", report=silent).is_whole
    kept = Kept(tmp_path / "restored" / "collections" / "pets", ImageBudget(ROOMY), silent)
    assert [kept.of(f"{at:02}") for at in range(20)] == [picture(f"{at:02}", 40_000) for at in range(20)]
    kept.close()


def test_damaged_pictures_keep_no_backup_from_being_made(data: Path, tmp_path: Path, told: list[str]) -> None:
    """They are left out, which is told, and all else is in it."""
    _flip(data, b"07")
    made = back_up(data, tmp_path / "backups", report=told.append)
    assert any("left out" in line for line in told)
    assert not images_path(made.path / "collections" / "pets").exists()
    assert made.items == {"pets": 20}


def test_many_threads_that_store_replace_and_delete_leave_what_belongs(open_kept: Callable[..., Kept]) -> None:
    """In the end each item has its picture, and there is no other."""
    kept = open_kept()

    def work(seed: int) -> None:
        for turn in range(40):
            name = f"{(seed * 7 + turn * 3) % 10}"
            if turn % 5 == 4:
                kept.delete(name)
            else:
                kept.upsert(record(name, picture(f"{name}-{turn % 4}"), vector=seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    items = [f"{at}" for at in range(10)]
    there = [digest for digest in kept.collection.digests(items) if digest is not None]
    assert kept.figures()[0] == len(set(there))
    assert all(kept.images.get(digest) is not None for digest in there)
