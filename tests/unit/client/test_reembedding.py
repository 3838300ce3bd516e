"""One collection made to hold what another holds: what is read again, carried over, deleted, left alone and missing."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clip_search.client import Client
from clip_search.contents import Image, Item
from clip_search.errors import InvalidArgumentError, ResourceExhaustedError, UnavailableError
from clip_search.picture_sources import SourceError
from clip_search.reembedding import Reembedding
from clip_search.results import Attribute, ItemOutcome, StoredItem


def digest_of(picture: bytes) -> bytes:
    """The digest that servers give items made from a picture."""
    return hashlib.sha256(b"image\0" + picture).digest()


@dataclass
class Entry:
    """An item with its thumbnail."""

    item: StoredItem
    thumbnail: bytes


class FakeCollection:
    """All that a run asks of a client, over a dictionary; notes what was embedded and what was not."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.embedded: list[str] = []
        self.updated: list[str] = []
        self.sequence = 0
        self.page_size_max = 3
        self.before_page: Callable[[], None] = lambda: None

    def put(
        self, item_id: str, picture: bytes | None, thumbnail: bytes = b"", text: str = "", **attributes: Attribute
    ) -> None:
        """Store an item; without a picture it keeps what it was made from, or was made from a vector."""
        self.sequence += 1
        old = self.entries.get(item_id)
        digest = digest_of(picture) if picture is not None else old.item.content_digest if old else b""
        item = StoredItem(item_id, attributes, text, bool(thumbnail), self.sequence, content_digest=digest)
        self.entries[item_id] = Entry(item, thumbnail)

    def stats(self) -> Any:
        """Tell the newest write."""
        return SimpleNamespace(sequence=self.sequence)

    def list_items(self, *, page_size: int, page_token: str) -> Any:
        """Give few at a time."""
        self.before_page()
        ids = sorted((each for each in self.entries if each > page_token), key=str.encode)
        page, rest = ids[: self.page_size_max], ids[self.page_size_max :]
        items = tuple(self.entries[each].item for each in page)
        return SimpleNamespace(items=items, next_page_token=page[-1] if rest else "")

    def thumbnails(self, ids: Iterable[str]) -> Iterator[Any]:
        """Give them in order, empty where there is none."""
        for each in ids:
            yield SimpleNamespace(id=each, data=self.entries[each].thumbnail if each in self.entries else b"")

    def delete(self, ids: Iterable[str]) -> Any:
        """Delete what is there."""
        self.sequence += 1
        return SimpleNamespace(deleted=sum(self.entries.pop(each, None) is not None for each in ids))

    @contextmanager
    def ingest(self, items: Iterator[Item]) -> Iterator[Iterator[ItemOutcome]]:
        """Store each, refusing pictures that are called bad."""
        yield (self._store(index, item) for index, item in enumerate(items))

    def _store(self, index: int, item: Item) -> ItemOutcome:
        picture = item.content.data if isinstance(item.content, Image) else None
        if picture == b"too many":
            return ItemOutcome(index, item.id, None, False, ResourceExhaustedError("the queue is full"))
        if picture == b"bad":
            return ItemOutcome(index, item.id, None, False, InvalidArgumentError("content.image: is no picture"))
        (self.updated if picture is None else self.embedded).append(item.id)
        self.put(item.id, picture, item.thumbnail, item.text, **cast("dict[str, Attribute]", item.attributes))
        return ItemOutcome(index, item.id, self.sequence, False, None)


class Pictures:
    """A source with a picture for each id."""

    def __init__(self) -> None:
        self.known: dict[str, bytes] = {}
        self.read_ids: list[str] = []
        self.failure: Exception | None = None

    def read(self, item: StoredItem) -> bytes:
        """Give it, or say that there is none."""
        if self.failure is not None:
            raise self.failure
        self.read_ids.append(item.id)
        if item.id not in self.known:
            raise SourceError("it is gone")
        return self.known[item.id]


class Watch:
    """Counts."""

    def __init__(self) -> None:
        self.count = 0
        self.told: list[str] = []

    def passed(self, count: int) -> None:
        """Count."""
        self.count += count

    def missed(self, item_id: str, reason: str) -> None:
        """Note."""
        self.told.append(item_id)


class Bench:
    """Two collections, a source, and runs between them."""

    def __init__(self) -> None:
        self.old, self.new, self.pictures, self.watch = FakeCollection(), FakeCollection(), Pictures(), Watch()
        self.run = self.another_run()

    def another_run(self) -> Reembedding:
        """As a program that is started again."""
        self.run = Reembedding(cast("Client", self.old), cast("Client", self.new), [self.pictures], self.watch)
        return self.run

    def put(self, item_id: str, picture: bytes | None = None, **more: Any) -> None:
        """Store an item in the old collection; its picture can be read again."""
        data = picture if picture is not None else item_id.encode()
        self.pictures.known[item_id] = data
        self.old.put(item_id, data, **more)

    def difference(self) -> set[str]:
        """Ids whose items are not the same on both sides."""
        sides = [
            {each: (replace(entry.item, sequence=0), entry.thumbnail) for each, entry in side.entries.items()}
            for side in (self.old, self.new)
        ]
        return {each for each in sides[0].keys() | sides[1].keys() if sides[0].get(each) != sides[1].get(each)}


@pytest.fixture
def bench() -> Bench:
    """Ten items in the old collection, some with everything that an item can have."""
    made = Bench()
    for at in range(10):
        thumbnail = b"small" if at % 2 else b""
        made.put(f"item {at}", thumbnail=thumbnail, text=f"text {at}", year=2000 + at, tags=("a", "b"), good=True)
    return made


def test_everything_is_carried_over(bench: Bench) -> None:
    """Vectors are made anew; attributes, texts and thumbnails are the same."""
    assert bench.run.run_pass() == bench.old.sequence
    assert bench.difference() == set()
    assert sorted(bench.new.embedded) == sorted(bench.old.entries)
    assert (bench.run.tally.embedded, bench.watch.count, bench.run.missing) == (10, 10, {})


def test_a_second_run_does_only_what_is_missing_or_changed(bench: Bench) -> None:
    """Equal items are neither read nor sent; what differs in its facts alone is not embedded again."""
    bench.run.run_pass()
    bench.new.delete(["item 1"])
    bench.put("item 2", b"another picture")
    bench.put("item 3", thumbnail=b"other", text="text 3", year=2003, tags=("a", "b"), good=True)
    bench.put("item 4", text="text 4", year=2004.0, tags=("a", "b"), good=True)
    bench.put("item 5", thumbnail=b"small", text="text 5", year=2005, tags=("a", "b"), good=1)
    bench.pictures.read_ids.clear()
    bench.new.embedded.clear()
    run = bench.another_run()
    run.run_pass()
    assert bench.difference() == set()
    assert bench.new.embedded == bench.pictures.read_ids == ["item 1", "item 2"]
    assert bench.new.updated == ["item 3", "item 4", "item 5"]
    assert run.tally.unchanged == 5


def test_a_thumbnail_that_only_the_new_one_has_is_no_difference(bench: Bench) -> None:
    """Servers can make them; it would never end."""
    bench.run.run_pass()
    entry = bench.new.entries["item 2"]
    bench.new.entries["item 2"] = Entry(replace(entry.item, has_thumbnail=True), b"made by the server")
    bench.another_run().run_pass()
    assert bench.new.updated == []


def test_an_item_of_unknown_content_is_compared_by_its_picture(bench: Bench) -> None:
    """One that was made from a vector is read again, and embedded only where its picture is another one by now."""
    bench.old.put("vector", None, year=2000)
    bench.pictures.known["vector"] = b"one"
    bench.run.run_pass()
    bench.another_run().run_pass()
    assert bench.new.embedded.count("vector") == 1
    bench.pictures.known["vector"] = b"two"
    bench.another_run().run_pass()
    assert bench.new.embedded.count("vector") == 2


def test_a_later_pass_looks_at_what_was_written_since(bench: Bench) -> None:
    """New, changed and deleted items, also those that were written while the first pass was under way."""
    turns = iter(range(100))

    def write_meanwhile() -> None:
        if next(turns) == 2:
            bench.put("item 0", b"changed meanwhile")
            bench.put("item 05", b"new meanwhile")
            bench.old.delete(["item 1"])

    bench.old.before_page = write_meanwhile
    mark = bench.run.run_pass()
    bench.old.before_page = lambda: None
    assert bench.difference()
    bench.put("item 9", b"changed later")
    bench.pictures.read_ids.clear()
    bench.run.run_pass(since=mark)
    assert bench.difference() == set()
    assert "item 5" not in bench.pictures.read_ids


def test_what_cannot_be_read_is_missing_with_the_reason(bench: Bench) -> None:
    """Be it the source or the server that refuses; nothing old is left of it, and a later pass may heal it."""
    del bench.pictures.known["item 3"]
    bench.put("item 4", b"bad")
    bench.new.put("item 3", b"an older picture")
    bench.new.put("item 4", b"an older picture")
    mark = bench.run.run_pass()
    assert bench.run.missing == {"item 3": "it is gone", "item 4": "INVALID_ARGUMENT: content.image: is no picture"}
    assert not {"item 3", "item 4"} & bench.new.entries.keys()
    assert bench.difference() == {"item 3", "item 4"}
    assert sorted(bench.watch.told) == ["item 3", "item 4"]
    assert bench.watch.count == 10
    bench.put("item 3", b"there again")
    bench.old.delete(["item 4"])
    bench.run.run_pass(since=mark)
    assert (bench.run.missing, bench.difference()) == ({}, set())


def test_what_is_still_missing_stays_missing(bench: Bench) -> None:
    """A later pass that has no reason to look at it again does not forget it."""
    del bench.pictures.known["item 3"]
    mark = bench.run.run_pass()
    bench.run.run_pass(since=mark)
    assert list(bench.run.missing) == ["item 3"]


def test_what_others_write_to_the_new_collection_is_left_alone(bench: Bench) -> None:
    """Once it is in use: neither replaced by late writes to the old one, nor deleted."""
    mark = bench.run.run_pass()
    boundary = bench.new.sequence
    bench.new.put("item 1", b"newer", year=2030)
    bench.new.put("only here", b"newer")
    bench.put("item 1", b"late")
    bench.put("item 2", b"late")
    bench.old.delete(["item 3"])
    mark = bench.run.run_pass(since=mark, boundary=boundary)
    assert bench.new.entries["item 1"].item.attributes == {"year": 2030}
    assert bench.run.tally.left_alone == 1
    assert bench.difference() == {"item 1", "only here"}
    bench.put("item 2", b"later still")
    bench.run.run_pass(since=mark, boundary=boundary)
    assert bench.difference() == {"item 1", "only here"}


def test_surplus_is_found_and_deleted_only_by_a_pass(bench: Bench) -> None:
    """Some examples, so that a collection given by mistake is not emptied."""
    assert bench.run.surplus() == []
    for at in range(5):
        bench.new.put(f"own {at}", b"x")
    assert bench.run.surplus() == ["own 0", "own 1", "own 2"]
    bench.run.run_pass()
    assert bench.difference() == set()
    assert bench.run.tally.deleted == 5


def test_a_server_that_fails_ends_the_pass(bench: Bench) -> None:
    """It is no reason to take items for missing; another run goes on."""
    bench.pictures.failure = UnavailableError("stopping")
    with pytest.raises(UnavailableError):
        bench.run.run_pass()
    assert bench.run.missing == {}
    bench.pictures.failure = None
    bench.another_run().run_pass()
    assert bench.difference() == set()


def test_a_server_that_is_full_ends_the_pass(bench: Bench) -> None:
    """No item is missing for that: another run stores it."""
    bench.put("item 5", b"too many")
    with pytest.raises(ResourceExhaustedError):
        bench.run.run_pass()
    assert bench.run.missing == {}


def test_ids_are_compared_in_byte_order(bench: Bench) -> None:
    """As servers list them: beyond the basic plane that is not the order of UTF-16."""
    for name in ("\uffff", "\U0001f600", "é", "z", "Z", "a\u0301"):
        bench.put(name)
    bench.run.run_pass()
    assert bench.difference() == set()
    bench.pictures.read_ids.clear()
    bench.another_run().run_pass()
    assert bench.pictures.read_ids == []
