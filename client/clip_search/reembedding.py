"""Makes one collection hold the items of another, embedded by another model; knows nothing of terminals or aliases.

It works in passes. A pass goes through the items of both collections side by side, in the order of their ids, and makes
the new one equal to the old one: what is missing or was made from another picture is read again and embedded; of what
was made from the same picture only attributes, text and thumbnail are carried over; what the old collection has no more
is deleted. The first pass compares every item, so an interrupted run goes on where it stopped, from any machine. Later
passes look at what was written since the pass before began. What cannot be read is kept with the reason.

While nobody else writes to the new collection, it is simply made equal. Once it is in use (`boundary`), what others
have written there is newer than anything that the old collection still gets, and is left alone.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, Protocol, TypeAlias

from clip_search.client import Client
from clip_search.contents import Image, Item
from clip_search.errors import DeadlineExceededError, ResourceExhaustedError, UnavailableError
from clip_search.picture_sources import PictureSource, SourceError, read_first
from clip_search.results import Attribute, ItemOutcome, StoredItem

__all__ = ["Observer", "Reembedding", "Tally"]

_PAGE_SIZE = 1_000
_ITEMS_AT_ONCE = 200  # whose thumbnails one request gives
_DELETIONS_AT_ONCE = 500
_READERS = 8
#: What is no fault of an item, and gone when another run tries again.
_PASSING = (DeadlineExceededError, ResourceExhaustedError, UnavailableError)
_READ_AHEAD = 16


@dataclass(slots=True)
class Tally:
    """What was done, in items.

    Attributes:
        embedded: read again and embedded.
        updated: attributes, text or thumbnail carried over to a vector that was there.
        unchanged: looked at and equal.
        deleted: removed from the new collection.
        left_alone: others have written something newer to the new collection.
    """

    embedded: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    left_alone: int = 0


class Observer(Protocol):
    """Is told of progress; from any thread."""

    def passed(self, count: int) -> None:
        """So many more items of the old collection are done with."""

    def missed(self, item_id: str, reason: str) -> None:
        """An item cannot be read again."""


@dataclass(frozen=True, slots=True)
class _Work:
    """An item of the old collection that must be looked at, and its like in the new one."""

    item: StoredItem
    present: StoredItem | None
    thumbnail: bytes = b""
    facts_differ: bool = False

    @property
    def same_content(self) -> bool:
        return self.present is not None and _same_digest(self.item.content_digest, self.present.content_digest)


_Kind = Literal["embedded", "updated"]
_Prepared: TypeAlias = tuple[Item, _Kind]


@dataclass(slots=True)
class _Pass:
    """One pass under way."""

    since: int | None
    boundary: int | None
    met: set[str] = field(default_factory=set)  # of those that were missing before
    stale: list[str] = field(default_factory=list)  # to be deleted from the new collection
    sent: dict[int, _Kind] = field(default_factory=dict)  # by position in the stream
    sent_count: int = 0


class Reembedding:
    """One run from one collection to another.

    Attributes:
        tally: what was done so far.
        missing: the items that the old collection has and the new one cannot get, each with the reason.

    Args:
        old: a client of the collection to read.
        new: a client of the collection to fill, and of the model to fill it with.
        sources: where pictures are read, the first that can.
        observer: told of progress.
    """

    def __init__(self, old: Client, new: Client, sources: Sequence[PictureSource], observer: Observer) -> None:
        self.tally = Tally()
        self.missing: dict[str, str] = {}
        self._old = old
        self._new = new
        self._sources = sources
        self._observer = observer
        self._own: set[int] = set()  # writes to the new collection since it is in use
        self._lock = threading.Lock()

    def surplus(self) -> list[str]:
        """Return some ids that the new collection has and the old one lacks; empty where there are none."""
        pairs = _side_by_side(_every(self._old), _every(self._new))
        return [new.id for new in islice((new for old, new in pairs if old is None and new is not None), 3)]

    def run_pass(self, *, since: int | None = None, boundary: int | None = None) -> int:
        """Make the new collection equal to the old one; return the old one's sequence when the pass began.

        Args:
            since: what the pass before returned: what is not newer is passed over. None looks at everything.
            boundary: the new collection's sequence when others began to write to it; None while nobody does.

        Raises:
            ClipSearchError: the server cannot go on. What was done is done; another run goes on from there.
        """
        began_at = self._old.stats().sequence
        work = _Pass(since, boundary)
        with ThreadPoolExecutor(_READERS, "read") as readers, self._new.ingest(self._items(work, readers)) as outcomes:
            for outcome in outcomes:
                self._record(work, outcome)
        self._delete(work, at_least=1)
        with self._lock:
            self.missing = {each: reason for each, reason in self.missing.items() if each in work.met}
        return began_at

    # ── What there is to do ──────────────────────────────────────────────────────────────────────────────────────────

    def _items(self, work: _Pass, readers: ThreadPoolExecutor) -> Iterator[Item]:
        """Give what must be sent; gRPC's thread draws from it."""
        for each, future in _ahead(readers, self._prepare, self._to_do(work)):
            try:
                made = future.result()
            except SourceError as error:
                self._miss(work, each.item.id, str(error), stale=each.present is not None)
                continue
            self._observer.passed(1)
            if made is None:
                with self._lock:
                    self.tally.unchanged += 1
                continue
            item, kind = made
            work.sent[work.sent_count] = kind
            work.sent_count += 1
            yield item
            self._delete(work, at_least=_DELETIONS_AT_ONCE)

    def _to_do(self, work: _Pass) -> Iterator[_Work]:
        """Find what was written since, with thumbnails; what is gone becomes a deletion."""
        changed = self._changed(work)
        while some := list(islice(changed, _ITEMS_AT_ONCE)):
            theirs = self._thumbnails(self._old, [each.item for each in some])
            ours = self._thumbnails(
                self._new, [each.present for each in some if each.present and each.item.has_thumbnail]
            )
            for each in some:
                thumbnail = theirs.get(each.item.id, b"")
                differ = each.present is not None and (
                    not _same_facts(each.item, each.present)
                    # Where the old one has none the new one may all the same: servers can make them.
                    or (each.item.has_thumbnail and thumbnail != ours.get(each.item.id))
                )
                yield _Work(each.item, each.present, thumbnail, differ)

    def _changed(self, work: _Pass) -> Iterator[_Work]:
        for old, new in _side_by_side(_every(self._old), _every(self._new)):
            others = new is not None and work.boundary is not None and self._is_of_others(new, work.boundary)
            if old is None:
                if new is not None and not others:
                    work.stale.append(new.id)
                continue
            if old.id in self.missing:
                work.met.add(old.id)
            if work.since is not None and old.sequence <= work.since:
                continue
            if others:
                with self._lock:
                    self.tally.left_alone += 1
                    self.missing.pop(old.id, None)
                continue
            yield _Work(old, new)

    def _is_of_others(self, item: StoredItem, boundary: int) -> bool:
        with self._lock:
            return item.sequence > boundary and item.sequence not in self._own

    @staticmethod
    def _thumbnails(client: Client, items: Sequence[StoredItem]) -> dict[str, bytes]:
        ids = [item.id for item in items if item.has_thumbnail]
        return {each.id: each.data for each in client.thumbnails(ids)} if ids else {}

    def _prepare(self, work: _Work) -> _Prepared | None:
        """Give what is to be sent of an item, None where nothing is; runs in a reader's thread."""
        item, present = work.item, work.present
        data = b"" if work.same_content else read_first(self._sources, item)
        if present is None or (data and not _same_digest(_digest_of(data), present.content_digest)):
            return Item(item.id, Image(data), item.attributes, item.text, work.thumbnail), "embedded"
        if work.facts_differ:
            return Item(item.id, None, item.attributes, item.text, work.thumbnail), "updated"
        return None

    # ── What came of it ──────────────────────────────────────────────────────────────────────────────────────────────

    def _record(self, work: _Pass, outcome: ItemOutcome) -> None:
        kind = work.sent.pop(outcome.index)
        if isinstance(outcome.error, _PASSING):
            raise outcome.error
        if outcome.error is not None:
            self._miss(work, outcome.id, f"{outcome.error.code}: {outcome.error}", stale=True, counted=True)
            return
        with self._lock:
            setattr(self.tally, kind, getattr(self.tally, kind) + 1)
            self.missing.pop(outcome.id, None)
            if work.boundary is not None and outcome.sequence is not None:
                self._own.add(outcome.sequence)

    def _miss(self, work: _Pass, item_id: str, reason: str, *, stale: bool, counted: bool = False) -> None:
        """Remember an item that cannot be had; an older version of it in the new collection must go."""
        with self._lock:
            self.missing[item_id] = reason
            work.met.add(item_id)
            if stale:
                work.stale.append(item_id)
        self._observer.missed(item_id, reason)
        if not counted:
            self._observer.passed(1)

    def _delete(self, work: _Pass, *, at_least: int) -> None:
        with self._lock:
            if len(work.stale) < at_least:
                return
            ids, work.stale = work.stale, []
        deletion = self._new.delete(ids)
        with self._lock:
            self.tally.deleted += deletion.deleted


# ── Comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _side_by_side(
    old: Iterator[StoredItem], new: Iterator[StoredItem]
) -> Iterator[tuple[StoredItem | None, StoredItem | None]]:
    """Pair the items of the same id, both in byte order of their ids; None where one side has none."""
    left, right = next(old, None), next(new, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left.id.encode() < right.id.encode()):
            yield left, None
            left = next(old, None)
        elif left is None or right.id.encode() < left.id.encode():
            yield None, right
            right = next(new, None)
        else:
            yield left, right
            left, right = next(old, None), next(new, None)


def _every(client: Client) -> Iterator[StoredItem]:
    token = ""
    while True:
        page = client.list_items(page_size=_PAGE_SIZE, page_token=token)
        yield from page.items
        token = page.next_page_token
        if not token:
            return


def _digest_of(picture: bytes) -> bytes:
    """Return the digest that the server gives items made from a picture."""
    digest = hashlib.sha256(b"image\0")
    digest.update(picture)
    return digest.digest()


def _same_digest(one: bytes, other: bytes) -> bool:
    return bool(one) and one == other


def _same_facts(one: StoredItem, other: StoredItem) -> bool:
    return one.text == other.text and _typed(one.attributes) == _typed(other.attributes)


def _typed(attributes: Mapping[str, Attribute]) -> dict[str, tuple[type, Attribute]]:
    """Return attributes so that 1, 1.0 and true differ."""
    return {name: (type(value), value) for name, value in attributes.items()}


def _ahead(
    readers: ThreadPoolExecutor, prepare: Callable[[_Work], _Prepared | None], works: Iterator[_Work]
) -> Iterator[tuple[_Work, Future[_Prepared | None]]]:
    """Prepare several at a time; give them in their order."""
    window: deque[tuple[_Work, Future[_Prepared | None]]] = deque()
    try:
        for work in works:
            window.append((work, readers.submit(prepare, work)))
            if len(window) >= _READ_AHEAD:
                yield window.popleft()
        while window:
            yield window.popleft()
    finally:
        for _, future in window:
            future.cancel()
