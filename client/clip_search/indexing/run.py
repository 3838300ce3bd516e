"""One run over sources: finds, leaves out, reads, sends, and keeps the tally; prints nothing.

Five kinds of threads take part. One draws pictures from the sources and looks up what the server has of them
(`unchanged.py`), a few read pictures (`read_ahead.py`), gRPC's builds messages, one takes outcomes, and the caller's
waits. At most 64 MiB (and 256 pictures) are read ahead and as much is in flight, whatever the number of pictures. The
tally is kept under a lock.

Small pictures pass from thread to thread some at a time: handing over each by itself costs more than reading it.
"""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Protocol, TypeAlias

from clip_search.client import Client
from clip_search.contents import AttributeValue, Image, Item
from clip_search.errors import ClipSearchError
from clip_search.indexing.found import FoundPicture, Source, UnreadableError, Unusable
from clip_search.indexing.photo_facts import photo_facts
from clip_search.indexing.pruning import Vanished, find_vanished
from clip_search.indexing.read_ahead import ReadAhead
from clip_search.indexing.unchanged import Sieve
from clip_search.ingest import Ingest
from clip_search.pictures import picture_bytes_max
from clip_search.results import ItemOutcome, ItemsFound, Limits
from clip_search.resuming import Outage, ResumePolicy

__all__ = ["Failure", "IndexRun", "Tally", "Watcher"]

_CHUNK_PICTURES_MAX = 16
_CHUNK_BYTES_MAX = 1 << 20
_CHUNKS_AHEAD_MAX = 16
_STOP_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture that is not stored, or something in which pictures may be that are not: where, why, which kind."""

    place: str
    reason: str
    code: str
    id: str = ""


class Watcher(Protocol):
    """Is told of progress, by one thread at a time."""

    def advance(self, tally: "Tally", count: int) -> None:
        """Take note that so many more pictures are done with."""

    def fail(self, failure: Failure) -> None:
        """Take note of a failure."""


@dataclass(slots=True)
class Tally:
    """What became of the pictures.

    Args:
        stored: sent and acknowledged.
        replaced: those of them that took the place of an item.
        skipped: unchanged.
        failed: not stored.
        pruned: items deleted whose pictures have vanished.
        unanswered: sent when it ended, without an answer.
        elapsed_seconds: since it began.
    """

    stored: int = 0
    replaced: int = 0
    skipped: int = 0
    failed: int = 0
    pruned: int = 0
    unanswered: int = 0
    elapsed_seconds: float = 0.0


_Chunk: TypeAlias = list[FoundPicture | Unusable]


@dataclass(frozen=True, slots=True)
class _Ready:
    place: str
    item: Item


@dataclass(slots=True)
class IndexRun:
    """Sends what sources hold.

    Attributes:
        tally: what became of the pictures.

    Args:
        client: of the collection.
        sources: what to send.
        limits: the server's.
        given: attributes that every picture gets.
        resume: how to go on after the connection broke; None for not at all.
        watcher: is told of progress.
        resend: whether unchanged pictures are sent too.
    """

    client: Client
    sources: Sequence[Source]
    limits: Limits
    given: Mapping[str, AttributeValue]
    resume: ResumePolicy | None
    watcher: Watcher
    resend: bool = False
    tally: Tally = field(default_factory=Tally)
    _sieve: Sieve = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)
    _outcomes: Ingest | None = None
    _sent: dict[int, tuple[str, str]] = field(default_factory=dict)  # place and id by position, of those in flight
    _incomplete: set[str] = field(default_factory=set)  # sources whose pictures were not all seen, by their origins

    def __post_init__(self) -> None:
        """Make what takes part."""
        ids_max = self.limits.items_per_request_max or 1
        self._sieve = Sieve(None if self.resend else self._look_up, self.given, self._skip, ids_max)

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.tally.stored or self.tally.skipped or self.tally.failed or self.tally.unanswered)

    def complete(self) -> ClipSearchError | KeyboardInterrupt | None:
        """Send everything; give what stopped it, if anything did.

        The caller's thread only waits. Ctrl-C strikes there: in the midst of a stream it could strike while a lock is
        being taken, which nobody would ever release.
        """
        start_time = time.monotonic()
        ended: SimpleQueue[BaseException | None] = SimpleQueue()
        threading.Thread(target=lambda: ended.put(self._work()), name="index", daemon=True).start()
        error: BaseException | None
        try:
            error = ended.get()
        except KeyboardInterrupt as interrupt:
            self._over.set()
            if self._outcomes is not None:
                self._outcomes.close()
            with contextlib.suppress(Empty):
                ended.get(timeout=_STOP_SECONDS_MAX)
            error = interrupt
        self.tally.unanswered = 0 if self._outcomes is None else self._outcomes.in_flight
        self.tally.elapsed_seconds = time.monotonic() - start_time
        if error is None or isinstance(error, ClipSearchError | KeyboardInterrupt):
            return error
        raise error

    def _work(self) -> BaseException | None:
        """Send everything; give what stopped it."""
        try:
            if self._sieve.look_up is not None and not self.client.stats().items:
                self._sieve.look_up = None  # nothing is there to be looked up
            with (
                ReadAhead(self._chunks(), self._prepare, self._bytes_of, things_max=_CHUNKS_AHEAD_MAX) as ahead,
                self.client.ingest(self._items(ready for chunk in ahead for ready in chunk)) as self._outcomes,
            ):
                for outcome in () if self._over.is_set() else self._outcomes:
                    self._record(outcome)
        except BaseException as error:  # noqa: BLE001  # for the caller's thread
            return error
        finally:
            self._over.set()
        return None

    def vanished(self) -> Iterator[Vanished]:
        """Find for each source the items whose pictures have vanished; only once everything was seen."""
        for source in self.sources:
            if source.is_whole and source.origin not in self._incomplete:
                yield find_vanished(self.client, source, self._sieve.found_ids)

    @property
    def unseen_sources(self) -> tuple[str, ...]:
        """The sources of which a part could not be read, so that nothing can be said to have vanished."""
        return tuple(sorted(self._incomplete))

    # ── In the thread that draws ─────────────────────────────────────────────────────────────────────────────────────

    def _chunks(self) -> "Iterator[_Chunk]":
        bytes_max = picture_bytes_max(self.limits)
        chunk: _Chunk = []
        chunk_bytes = 0
        seen = (each for source in self.sources for each in self._seen(source, bytes_max))
        for each in self._sieve.let_through(seen):
            chunk.append(each)
            chunk_bytes += self._bytes_of([each])
            if len(chunk) == _CHUNK_PICTURES_MAX or chunk_bytes > _CHUNK_BYTES_MAX:
                yield chunk
                chunk, chunk_bytes = [], 0
        if chunk:
            yield chunk

    def _seen(self, source: Source, bytes_max: int) -> Iterator[FoundPicture | Unusable]:
        for each in source.pictures(bytes_max):
            if isinstance(each, Unusable) and each.hides_pictures:
                self._incomplete.add(source.origin)
            yield each

    def _look_up(self, ids: list[str]) -> ItemsFound:
        """Read items, and go on after the connection broke as the stream does."""
        outage = Outage(self.resume)
        outage.end()  # the server was reached before
        while True:
            try:
                return self.client.get_items(ids)
            except ClipSearchError as error:
                if self._over.wait(outage.pause_seconds(error)):
                    raise

    def _skip(self, count: int) -> None:
        with self._lock:
            self.tally.skipped += count
            self.watcher.advance(self.tally, count)

    # ── In the threads that read ─────────────────────────────────────────────────────────────────────────────────────

    def _prepare(self, chunk: "_Chunk") -> "list[_Ready | Unusable]":
        return [self._prepare_one(each) for each in chunk]

    def _prepare_one(self, found: FoundPicture | Unusable) -> "_Ready | Unusable":
        if isinstance(found, Unusable):
            return found
        bytes_max = picture_bytes_max(self.limits)
        try:
            data = found.read(bytes_max) if found.size_bytes <= bytes_max else b""
        except UnreadableError as error:
            return Unusable(found.place, str(error), id=found.id)
        size_bytes = max(found.size_bytes, len(data))
        if size_bytes > bytes_max:
            bounds = f"{size_bytes:,} bytes, and the server takes at most {bytes_max:,}"
            return Unusable(found.place, f"the file is too large: {bounds}", id=found.id)
        attributes = {**photo_facts(data), **found.facts, **self.given}
        return _Ready(found.place, Item(found.id, Image(data), attributes, found.text or ""))

    def _bytes_of(self, chunk: "_Chunk") -> int:
        """Give how many bytes will be read; of what is too large, none."""
        bytes_max = picture_bytes_max(self.limits)
        pictures = (each for each in chunk if isinstance(each, FoundPicture))
        return sum(each.size_bytes for each in pictures if each.size_bytes <= bytes_max)

    # ── In gRPC's thread ─────────────────────────────────────────────────────────────────────────────────────────────

    def _items(self, ahead: "Iterable[_Ready | Unusable]") -> Iterator[Item]:
        position = 0
        for ready in ahead:
            if isinstance(ready, Unusable):
                self._fail(Failure(ready.place, ready.reason, "FILE", ready.id))
                continue
            self._sent[position] = ready.place, ready.item.id
            position += 1
            yield ready.item

    # ── In the thread that takes outcomes ───────────────────────────────────────────────────────────────────────────

    def _record(self, outcome: ItemOutcome) -> None:
        place, item_id = self._sent.pop(outcome.index)
        if outcome.error is not None:
            self._fail(Failure(place, str(outcome.error), outcome.error.code, item_id))
            return
        with self._lock:
            self.tally.stored += 1
            self.tally.replaced += outcome.replaced
            self.watcher.advance(self.tally, 1)

    def _fail(self, failure: Failure) -> None:
        with self._lock:
            self.tally.failed += 1
            self.watcher.fail(failure)
            self.watcher.advance(self.tally, 1)
