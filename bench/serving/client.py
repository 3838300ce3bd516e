"""A process that loads a server and counts what its own work cost; knows nothing of what is made of its figures.

    python -m bench.serving.client ADDRESS KIND --connections 4 --seconds 10 [--rate 100] [--deadline 1] [--seed 1]

KIND is `text` or `image` (Embed of one input), `search` (Search by a text) or `ingest` (one stream of pictures a
connection). With `--rate` requests start at random times, so many a second in all, whether or not earlier ones were
answered (open loop); `--one-by-one` starts none before the last was answered. Without it each connection sends the next
request as soon as the last is answered (closed loop).

Prints `ready`, waits for a line on stdin, runs, and prints a `Report` as one JSON line. What ends in the first tenth of
the time, or after it, is not counted: in between as many requests are open at the beginning as at the end.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from bench.serving.inputs import marked, pictures, texts
from clip_search.v1 import (
    content_pb2,
    embedding_pb2,
    embedding_pb2_grpc,
    index_pb2,
    index_pb2_grpc,
    item_pb2,
    search_pb2,
    search_pb2_grpc,
)

__all__ = ["KINDS", "Report"]

KINDS = ("text", "image", "search", "ingest")
_INGESTED_IDS = 500
"""Ids are used again, so that what is stored does not grow without end."""
_CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
_PATIENCE_SECONDS = 30.0
_RAMP = 0.1


@dataclass(slots=True)
class Report:
    """What one process, or several together, found.

    Attributes:
        answered_ms: how long each answered request took.
        refused_ms: how long each took that was RESOURCE_EXHAUSTED.
        other: how many ended with each other status.
        cpu_seconds: processor time that the clients themselves took.
        seconds: how long they ran.
    """

    answered_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    other: dict[str, int] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    seconds: float = 0.0


class _Notes:
    """Outcomes of requests that end between `opens` and `closes`, from any thread."""

    def __init__(self, opens: float, closes: float) -> None:
        self.opens, self.closes = opens, closes
        self.answered_ms: list[float] = []
        self.refused_ms: list[float] = []
        self.other: Counter[str] = Counter()

    def add(self, started: float, error: BaseException | None) -> None:
        """Take note of a request that began at `started` and ended now."""
        now = time.perf_counter()
        if not self.opens <= now < self.closes:
            return
        milliseconds = (now - started) * 1e3
        if error is None:
            self.answered_ms.append(milliseconds)
        elif isinstance(error, grpc.Call) and error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
            self.refused_ms.append(milliseconds)
        else:
            self.other[error.code().name if isinstance(error, grpc.Call) else type(error).__name__] += 1


class _Connection:
    """One connection of its own, and the requests it sends."""

    def __init__(self, address: str, kind: str, seed: int, deadline: float) -> None:
        self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        grpc.channel_ready_future(self._channel).result(timeout=_PATIENCE_SECONDS)
        self._search = search_pb2_grpc.SearchServiceStub(self._channel).Search
        self._embed = embedding_pb2_grpc.EmbeddingServiceStub(self._channel).Embed
        self._kind, self._seed, self.deadline = kind, seed, deadline
        self._texts = texts(seed)
        self._pictures = itertools.cycle(pictures(seed) if kind in {"image", "ingest"} else [b""])

    def request(self) -> tuple[Any, Any]:
        """Return a method and the next request for it."""
        if self._kind == "search":
            part = search_pb2.QueryPart(content=content_pb2.Content(text=next(self._texts)))
            return self._search, search_pb2.SearchRequest(parts=[part], limit=10)
        return self._embed, embedding_pb2.EmbedRequest(inputs=[self._content()])

    def ask(self, notes: _Notes) -> None:
        """Send the next request and wait for its answer; this costs half of what a future does."""
        method, request = self.request()
        started = time.perf_counter()
        try:
            method(request, timeout=self.deadline)
        except grpc.RpcError as error:
            notes.add(started, error)
        else:
            notes.add(started, None)

    def _content(self) -> content_pb2.Content:
        if self._kind == "text":
            return content_pb2.Content(text=next(self._texts))
        return content_pb2.Content(image=next(self._pictures))

    def ingest(self, notes: _Notes) -> None:
        """Stream pictures, noting each answer."""

        def requests() -> Iterator[index_pb2.IngestRequest]:
            for number in itertools.count():
                if time.perf_counter() >= notes.closes:
                    return
                item_id = f"{self._seed}/{number % _INGESTED_IDS}"
                # Otherwise all but the first few would be recognized, and cost no inference.
                picture = marked(next(self._pictures), number)
                item = item_pb2.Item(id=item_id, content=content_pb2.Content(image=picture))
                yield index_pb2.IngestRequest(index=number, item=item)

        for answer in index_pb2_grpc.IndexServiceStub(self._channel).Ingest(requests()):
            if answer.result.HasField("stored"):
                notes.add(time.perf_counter(), None)
            else:
                notes.other[f"item {answer.result.error.code}"] += 1


def _closed_loop(connection: _Connection, notes: _Notes) -> None:
    while time.perf_counter() < notes.closes:
        connection.ask(notes)


def _open_loop(connections: list[_Connection], notes: _Notes, rate: float, seed: int) -> None:
    """Start requests at the times of a Poisson process, and wait for the last ones."""
    random = np.random.default_rng(seed)
    running = []
    due = time.perf_counter()
    for connection in itertools.cycle(connections):
        due += random.exponential(1 / rate)
        if due >= notes.closes:
            break
        method, request = connection.request()
        time.sleep(max(0.0, due - time.perf_counter()))
        started = time.perf_counter()
        future = method.future(request, timeout=connection.deadline)
        future.add_done_callback(lambda done, started=started: notes.add(started, done.exception()))
        running.append(future)
    for future in running:
        future.exception()


def _one_by_one(connection: _Connection, notes: _Notes, rate: float, seed: int) -> None:
    """Start a request at random times, but none before the last one is answered."""
    random = np.random.default_rng(seed)
    while True:
        time.sleep(random.exponential(1 / rate))
        if time.perf_counter() >= notes.closes:
            return
        connection.ask(notes)


def _run(options: argparse.Namespace, connections: list[_Connection]) -> Report:
    opens = time.perf_counter() + _RAMP * options.seconds
    notes = _Notes(opens, opens + options.seconds)
    if options.rate and not options.one_by_one:
        threads = [threading.Thread(target=_open_loop, args=(connections, notes, options.rate, options.seed))]
    else:
        threads = [threading.Thread(target=_work, args=(options, each, notes)) for each in connections]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, notes.opens - time.perf_counter()))
    before = time.process_time()
    time.sleep(max(0.0, notes.closes - time.perf_counter()))
    cpu_seconds = time.process_time() - before
    for thread in threads:
        thread.join()
    return Report(notes.answered_ms, notes.refused_ms, dict(notes.other), cpu_seconds, options.seconds)


def _work(options: argparse.Namespace, connection: _Connection, notes: _Notes) -> None:
    if options.kind == "ingest":
        connection.ingest(notes)
    elif options.one_by_one:
        _one_by_one(connection, notes, options.rate, options.seed)
    else:
        _closed_loop(connection, notes)


def main() -> int:
    """Connect, wait for the word, load the server, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--one-by-one", action="store_true")
    parser.add_argument("--deadline", type=float, default=_PATIENCE_SECONDS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seeds = range(1_000 * options.seed, 1_000 * options.seed + options.connections)
    connections = [_Connection(options.address, options.kind, seed, options.deadline) for seed in seeds]
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(dataclasses.asdict(_run(options, connections))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
