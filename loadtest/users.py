"""What the users of a load test do: people who search, pictures that are classified, pictures that are stored in bulk.

They call through the Python client, each over a connection of its own. Searchers and classifiers keep a timetable
(`pace.py`); an ingester sends as fast as the server takes it, a stream at a time. Answers and missed deadlines have a
response time; other errors, and refusals (RESOURCE_EXHAUSTED), which count apart, have none, so that fast failures make
no percentile look better. Knows nothing of how many users there are, and of reports.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from locust import User, task

from clip_search.client import Client
from clip_search.contents import Image, Item, ItemId, Text
from clip_search.errors import ClipSearchError, DeadlineExceededError, ResourceExhaustedError
from clip_search.results import SearchResults
from loadtest import names
from loadtest.material import Material, marked, read_material, typed
from loadtest.pace import BEHIND_SECONDS_MAX, Pace
from loadtest.scenario import Scenario, connect, read_scenario

__all__ = ["CALL", "REFUSED", "Classifier", "Ingester", "Searcher"]

#: Locust's request types here.
CALL = "call"
REFUSED = "refused"

HITS = 10
LABELS = 8
STREAM_ITEMS = 32
#: Ids are used again, so that an ingester leaves no more than this many items at any time.
ITEMS_MAX = 1_000

_PERSON_DEADLINE_SECONDS = 5.0
_BULK_DEADLINE_SECONDS = 30.0
_KEYSTROKES_SECONDS = (0.2, 0.6)
_THINK_SECONDS = (0.8, 2.5)
_SIMILAR_SHARE = 0.3
_PICTURE_SHARE = 0.2
_BETWEEN_STREAMS_SECONDS = (1.0, 2.0)


@dataclass(frozen=True, slots=True)
class _Step:
    """A request, and how long after the one before it is due.

    Attributes:
        check: tells what is wrong with an answer that is no error; empty where nothing is.
    """

    gap_seconds: float
    name: str
    send: Callable[[], object]
    check: Callable[[Any], str] = lambda _answer: ""


class _LoadUser(User):
    """A user with a connection, and outcomes that Locust counts."""

    abstract = True
    deadline_seconds = _PERSON_DEADLINE_SECONDS

    def on_start(self) -> None:
        """Take the run's settings; nothing is sent yet."""
        self.scenario: Scenario = read_scenario(self.environment.parsed_options.scenario)
        self.material: Material = read_material(self.scenario.pictures, self.scenario.texts)
        self.random = Random()
        self.client: Client = self.connected()

    def connected(self) -> Client:
        """Return a client of the server."""
        return connect(self.scenario, timeout_seconds=self.deadline_seconds)

    def on_stop(self) -> None:
        """Hang up."""
        self.client.close()

    def count(self, name: str, seconds: float, error: Exception | None = None) -> None:
        """Let Locust count a request.

        Args:
            name: of what kind it was.
            seconds: how long it took.
            error: what went wrong; None where nothing did.
        """
        refused = isinstance(error, ResourceExhaustedError)
        timed = error is None or isinstance(error, DeadlineExceededError)
        self.environment.events.request.fire(
            request_type=REFUSED if refused else CALL,
            name=name,
            response_time=1000 * seconds if timed else None,
            response_length=0,
            exception=None if refused or error is None else _short(error),
        )


class _PunctualUser(_LoadUser):
    """A user who asks by a timetable, whatever became of the request before."""

    abstract = True

    def on_start(self) -> None:
        """Begin the timetable with the connection."""
        super().on_start()
        self._pace = Pace()
        self._steps = self._day()
        self._next = next(self._steps)

    def wait_time(self) -> float:
        """Return how long it is until the next request is due."""
        return self._pace.wait_seconds()

    @task
    def step(self) -> None:
        """Send the request that is due, and plan the next one."""
        if self._pace.give_up():
            self.count(self._next.name, 0.0, RuntimeError(f"not sent: its user was {BEHIND_SECONDS_MAX:.0f} s behind"))
        else:
            self._send(self._next)
        self._next = next(self._steps)
        self._pace.plan(self._next.gap_seconds)

    def _send(self, step: _Step) -> None:
        wanted = self._pace.begin()
        error: Exception | None = None
        try:
            problem = step.check(step.send())
            if problem:
                error = RuntimeError(problem)
        except ClipSearchError as failure:
            error = failure
        self._pace.end()
        self.count(step.name, time.perf_counter() - wanted, error)

    def _day(self) -> Iterator[_Step]:
        yield _Step(0.0, names.CONNECT, self.client.health)
        while True:
            yield from self.session()

    def session(self) -> Iterator[_Step]:
        """Give some requests, which are repeated with other contents as long as the user is there."""
        raise NotImplementedError

    def between(self, bounds: tuple[float, float]) -> float:
        """Return any number of seconds between two."""
        return self.random.uniform(*bounds)


class Searcher(_PunctualUser):
    """Somebody who types, sees results change at each pause, looks at them, and sometimes asks for more like one."""

    def session(self) -> Iterator[_Step]:
        """Type a query and look around."""
        text = self.material.text(self.random)
        gap_seconds = self.between(_THINK_SECONDS)
        for beginning in typed(text):
            yield self._search(gap_seconds, names.SEARCH_TYPING, Text(beginning))
            gap_seconds = self.between(_KEYSTROKES_SECONDS)
        hits: list[str] = []
        yield self._search(gap_seconds, names.SEARCH_TEXT, Text(text), hits)
        if hits and self.random.random() < _SIMILAR_SHARE:
            yield self._search(self.between(_THINK_SECONDS), names.SEARCH_SIMILAR, ItemId(self.random.choice(hits)))
        if self.random.random() < _PICTURE_SHARE:
            picture = Image(self.material.picture(self.random))
            yield self._search(self.between(_THINK_SECONDS), names.SEARCH_PICTURE, picture)

    def _search(
        self, gap_seconds: float, name: str, query: Text | Image | ItemId, hits: list[str] | None = None
    ) -> _Step:
        def check(found: SearchResults) -> str:
            if hits is not None:
                hits.extend(hit.id for hit in found.hits)
            return "" if found.hits else "the answer holds no hit: is anything indexed?"

        return _Step(gap_seconds, name, partial(self.client.search, query, limit=HITS), check)


class Classifier(_PunctualUser):
    """A program that asks which of some labels fits a picture, now and then."""

    def session(self) -> Iterator[_Step]:
        """Classify one picture."""
        picture, labels = Image(self.material.picture(self.random)), self.material.labels(self.random, LABELS)
        yield _Step(self.between(_THINK_SECONDS), names.CLASSIFY, partial(self.client.classify, picture, labels))


class Ingester(_LoadUser):
    """A program that stores new pictures, a stream of some at a time, in the run's own collection.

    An item's time runs from when it is given to the stream until it is acknowledged as durable.
    """

    deadline_seconds = _BULK_DEADLINE_SECONDS

    def on_start(self) -> None:
        """Take ids that no other ingester has."""
        super().on_start()
        self._name = uuid.uuid4().hex
        self._stored = 0
        self._is_connected = False

    def connected(self) -> Client:
        """Return a client that stores in the run's own collection."""
        return connect(self.scenario, timeout_seconds=self.deadline_seconds, collection=self.scenario.stored_in)

    def wait_time(self) -> float:
        """Return how long it pauses after a stream."""
        return self.random.uniform(*_BETWEEN_STREAMS_SECONDS)

    @task
    def store(self) -> None:
        """Send one stream."""
        if not self._is_connected:
            self._attempt(names.CONNECT, self.client.health)
            self._is_connected = True
        self._attempt(names.INGEST_STREAM, self._stream)

    def _attempt(self, name: str, send: Callable[[], object]) -> None:
        started = time.perf_counter()
        error: Exception | None = None
        try:
            send()
        except ClipSearchError as failure:
            error = failure
        self.count(name, time.perf_counter() - started, error)

    def _stream(self) -> None:
        given: dict[str, float] = {}
        with self.client.ingest(self._items(given)) as outcomes:
            for outcome in outcomes:
                self.count(names.INGEST_ITEM, time.perf_counter() - given[outcome.id], outcome.error)

    def _items(self, given: dict[str, float]) -> Iterator[Item]:
        for _ in range(STREAM_ITEMS):
            name = f"{self._name}/{self._stored % ITEMS_MAX}"
            picture = marked(self.material.picture(self.random), f"{self._name}/{self._stored}")
            self._stored += 1
            given[name] = time.perf_counter()
            yield Item(name, Image(picture))


def _short(error: Exception) -> Exception:
    """Return what Locust shall show: the status first, so that failures of one kind stand together."""
    return RuntimeError(f"{error.code}: {error}") if isinstance(error, ClipSearchError) else error
