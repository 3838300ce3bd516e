"""Measures a collection as the server runs it: from an event loop, through the threads of `AsyncCollection`.

Knows nothing of how the collection was built, nor of what figures should be. It adds items to the collection.
"""

import asyncio
import functools
import hashlib
import itertools
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bench.index.clients import Latencies, closed_loop, open_loop
from bench.index.data import SPACE, filter_of, new_pictures, record, texts
from bench.index.fill import KNOWN_TEXTS, LIMIT, TEXTS, recall_of, wait_until_built
from bench.index.heart import Heart
from bench.index.resident import Resident, peak_bytes, resident
from clip_search_server.index import Collection, IndexSettings, Search
from clip_search_server.index.engines import chosen_engine
from clip_search_server.search.collection import AsyncCollection

__all__ = ["CLIENTS", "OPEN_SHARE", "SHARES", "Measurement"]

SHARES = (0.01, 0.1, 0.5)
CLIENTS = (1, 16)
#: Of the searches a second that an idle collection answers, those that arrive while it takes in items.
OPEN_SHARE = 0.3

_NEW_ROWS = 1 << 14
_BATCH = 64
_STREAMS = 4  # As many as `AsyncCollection` has threads that write.
_SNAPSHOT_SECONDS = 5.0
_SNAPSHOTS = 10
_BUSY_FACTOR_MAX = 10
_QUERIES_ALONE = 100
_DIGEST_BYTES = 1 << 28

_Result = TypeVar("_Result")


@dataclass(slots=True)
class _Behind:
    """What happened behind searches."""

    rows: int = 0
    snapshots: int = 0
    seals: int = 0
    merges: int = 0
    tail_rows_most: int = 0
    segments_most: int = 0
    known: set[str] = field(default_factory=set)


class Measurement:
    """One process's measurement of one collection that it has not opened yet.

    Args:
        folder: the collection's.
        rows: items that it was made of.
        dim: components of a vector.
        settings: what to open it with.
        seconds: of searching for each figure.
    """

    def __init__(self, folder: Path, rows: int, dim: int, settings: IndexSettings, *, seconds: float) -> None:
        self._folder = folder
        self._settings = settings
        self._seconds = seconds
        self._queries = texts(rows, dim, KNOWN_TEXTS + TEXTS)[KNOWN_TEXTS:]
        self._new = new_pictures(rows, dim, _NEW_ROWS)
        self._numbers = itertools.count(rows)
        self._dim = dim
        self._stalls: dict[str, Mapping[str, float]] = {}
        self._index: Collection
        self._collection: AsyncCollection

    async def run(self, rounds: int) -> dict[str, Any]:
        """Return all figures; searching alone and beside ingest take turns `rounds` times."""
        await self._beating("nothing", asyncio.sleep(self._seconds / 4))
        chosen_engine(self._settings, print)  # Its library is part of the base.
        base = resident(self._folder)
        started = time.perf_counter()
        self._index = await self._beating("open", asyncio.to_thread(self._open))
        figures: dict[str, Any] = {"open_s": round(time.perf_counter() - started, 3)}
        self._collection = AsyncCollection("default", self._index)
        memory: dict[str, Any] = {"opened": self._growth(base)}
        figures |= {
            "ceiling_open_s": round(self._digest_seconds(), 3),
            "segments": [asdict(part) for part in self._index.stats().segments],
            "recall": await asyncio.to_thread(recall_of, self._index, self._queries),
            "memory_alone_ms": round(await asyncio.to_thread(self._alone_ms), 3),
        }
        idle = {clients: await self._closed(clients) for clients in CLIENTS}
        figures["idle"] = {clients: asdict(latencies) for clients, latencies in idle.items()}
        figures["filtered"] = {share: await asyncio.to_thread(self._filtered, share) for share in SHARES}
        memory["searched"] = self._growth(base)
        rate = OPEN_SHARE * max(latencies.per_second for latencies in idle.values())
        figures["rounds"] = [await self._round(rate) for _ in range(rounds)]
        await asyncio.to_thread(wait_until_built, self._index, self._settings)
        memory["after_ingest"] = self._growth(base)
        memory["peak_bytes"] = peak_bytes() - base.total
        await self._collection.close()
        return figures | {"memory": memory, "stalls": self._stalls}

    def _open(self) -> Collection:
        return Collection.open(
            self._folder,
            dim=self._dim,
            space_id=SPACE,
            settings=self._settings,
            progress=functools.partial(print, flush=True),
        )

    async def _beating(self, name: str, work: Awaitable[_Result]) -> _Result:
        """Wait for work while the loop's heart beats."""
        heart = Heart()
        try:
            return await work
        finally:
            self._stalls[name] = asdict(heart.stop())

    async def _ask(self, number: int) -> None:
        await self._collection.find(Search(self._queries[number % TEXTS], limit=LIMIT))

    async def _closed(self, clients: int) -> Latencies:
        return await self._beating(
            f"searches_of_{clients}", closed_loop(self._ask, clients=clients, seconds=self._seconds)
        )

    def _alone_ms(self) -> float:
        """Return the median of searches by one thread that reads nothing from the store."""
        return 1e3 * statistics.median(
            _seconds_of(functools.partial(self._index.search, query, limit=LIMIT))
            for query in self._queries[:_QUERIES_ALONE]
        )

    def _filtered(self, share: float) -> dict[str, float]:
        """Search with a filter and without one in turn, and compare with exact searches."""
        plain_s, filtered_s = [], []
        found = wanted = 0
        for number, query in enumerate(self._queries[:_QUERIES_ALONE]):
            filter_ = filter_of(share, number)
            search = Search(query, limit=LIMIT, filter=filter_)
            plain_s.append(_seconds_of(functools.partial(self._index.find, Search(query, limit=LIMIT))))
            filtered_s.append(_seconds_of(functools.partial(self._index.find, search)))
            if number % 4 == 0:
                exact = self._index.find(Search(query, limit=LIMIT, filter=filter_, exact=True))
                hits = {hit.item.id for hit in self._index.find(search).hits}
                found += len(hits & {hit.item.id for hit in exact.hits})
                wanted += len(exact.hits)
        plain_ms, filtered_ms = (1e3 * statistics.median(times) for times in (plain_s, filtered_s))
        return {
            "recall": round(found / wanted, 4),
            "p50_ms": round(filtered_ms, 3),
            "times_unfiltered": round(filtered_ms / plain_ms, 2),
        }

    async def _round(self, rate: float) -> dict[str, Any]:
        """Search at a fixed rate: with nothing else going on, while snapshots are taken, and while items come in."""
        search = functools.partial(open_loop, self._ask, per_second=rate)
        alone = await self._beating("open_loop", search(keep_going=lambda seconds: seconds < self._seconds))
        snapshots = asyncio.create_task(self._snapshots())
        beside_snapshots = await self._beating("snapshot", search(keep_going=lambda _seconds: not snapshots.done()))
        behind, stop = _Behind(known=self._names()), asyncio.Event()
        work = [asyncio.create_task(self._ingest(behind, stop)) for _stream in range(_STREAMS)]
        work += [
            asyncio.create_task(self._snapshot_now_and_then(behind, stop)),
            asyncio.create_task(self._look(behind, stop)),
        ]
        started = time.perf_counter()
        busy = await self._beating("ingest", search(keep_going=functools.partial(self._is_busy_enough, behind)))
        seconds = time.perf_counter() - started
        stop.set()
        await asyncio.gather(*work)
        return {
            "searches_per_s": round(rate, 1),
            "alone": asdict(alone),
            "beside_snapshots": asdict(beside_snapshots),
            "snapshot_s": await snapshots,
            "beside_ingest": asdict(busy),
            "seconds": round(seconds, 1),
            "rows_per_s": round(behind.rows / seconds),
            "seals": behind.seals,
            "merges": behind.merges,
            "snapshots": behind.snapshots,
            "tail_rows_most": behind.tail_rows_most,
            "segments_most": behind.segments_most,
            "p99_ratio_ingest": round(busy.p99_ms / alone.p99_ms, 2),
            "p99_ratio_snapshots": round(beside_snapshots.p99_ms / alone.p99_ms, 2),
        }

    def _is_busy_enough(self, behind: _Behind, seconds: float) -> bool:
        """Go on until segments were sealed and merged, within bounds."""
        is_complete = behind.seals > 1 and behind.merges > 0
        return seconds < self._seconds * (1 if is_complete else _BUSY_FACTOR_MAX)

    async def _ingest(self, behind: _Behind, stop: asyncio.Event) -> None:
        """Write new items as fast as they are taken."""
        while not stop.is_set():
            numbers = list(itertools.islice(self._numbers, _BATCH))
            # A vector that was written before goes by another id: a step away from itself, so that no two are equal.
            batch = [record(number, self._vector(number)) for number in numbers]
            await self._collection.upsert(batch, patience_seconds=3600.0)
            behind.rows += len(batch)

    def _vector(self, number: int) -> Any:  # noqa: ANN401 - (dim,)
        turn, at = divmod(number, _NEW_ROWS)
        vector = self._new[at]
        return vector + 1e-3 * turn * self._new[at - 1] if turn else vector

    async def _snapshots(self) -> float:
        """Take snapshots, each of something new; return the median of their seconds."""
        times_s = []
        for _ in range(_SNAPSHOTS):
            number = next(self._numbers)
            await self._collection.upsert([record(number, self._vector(number))], patience_seconds=3600.0)
            started = time.perf_counter()
            await self._collection.snapshot()
            times_s.append(time.perf_counter() - started)
            await asyncio.sleep(self._seconds / _SNAPSHOTS)
        return round(statistics.median(times_s), 4)

    async def _snapshot_now_and_then(self, behind: _Behind, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._collection.snapshot()
            behind.snapshots += 1
            await _sleep_unless(stop, _SNAPSHOT_SECONDS)

    async def _look(self, behind: _Behind, stop: asyncio.Event) -> None:
        """Note what the builder does: a segment that comes alone was sealed, one that takes others' place merged."""
        while not stop.is_set():
            stats = await asyncio.to_thread(self._index.stats)
            names = {part.name for part in stats.segments}
            if names != behind.known:
                behind.merges += bool(behind.known - names)
                behind.seals += len(names - behind.known) if names > behind.known else 0
                behind.known = names
            behind.tail_rows_most = max(behind.tail_rows_most, stats.tail_row_count)
            behind.segments_most = max(behind.segments_most, len(names))
            await _sleep_unless(stop, 0.5)

    def _names(self) -> set[str]:
        return {part.name for part in self._index.stats().segments}

    def _growth(self, base: Resident) -> dict[str, float]:
        """Return what became resident since `base`, beside what vectors and links take: that is the graphs' files."""
        now = resident(self._folder)
        stats = self._index.stats()
        graphs = sum((self._folder / "segments" / f"{part.name}.graph").stat().st_size for part in stats.segments)
        held = graphs + 4 * self._dim * stats.tail_row_count
        anonymous, mapped = now.anonymous - base.anonymous, now.mapped - base.mapped
        return {
            "anonymous_bytes": anonymous,
            "mapped_bytes": mapped,
            "vectors_and_links_bytes": held,
            "ratio": round((anonymous + mapped) / held, 3),
            "bytes_per_vector": round((anonymous + mapped) / stats.item_count),
        }

    def _digest_seconds(self) -> float:
        """Return how long all processors take to digest the segments' files from memory."""
        block = bytes(_DIGEST_BYTES)
        per_byte = _seconds_of(lambda: hashlib.sha256(block)) / _DIGEST_BYTES
        return per_byte * sum(part.file_bytes for part in self._index.stats().segments) / (os.cpu_count() or 1)


async def _sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


def _seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
