"""What the builder does when nothing is to be built: it watches how well graphs answer what people ask.

Knows nothing of building, nor of where segments are kept.

Every `recall_interval_seconds` a few recent queries, none of them twice while the segments stay as they are, are asked
of the graphs and of an exact scan (recall.py). Two things come of it. The estimate that stats show rests on the newest
queries, at most `_QUERIES_KEPT`. And a segment that finds less than the target is tuned again with the queries known
now: a segment sealed before anybody searched knew only its own vectors, and texts are harder than those.

Tuning again only ever widens a search, so it ends. Queries that a segment was tuned again for do not count against it
any more: it takes as many *new* ones to have it tuned once more.

Those who search come first: a round works a quarter of its time, gives up within milliseconds where there is something
to build, the collection closes or a burst of searches comes, and is followed by a rest of nine times its length at
least. All of it takes one thread.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import numpy as np

from clip_search_server.index.damage import Report
from clip_search_server.index.recall import KeepGoing, Measured, Tally, measure
from clip_search_server.index.sealed import SealedPart
from clip_search_server.index.segment import BuildCancelledError
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.tuning import QuerySource, is_widest, tune
from clip_search_server.index.types import FloatArray, RecallEstimate
from clip_search_server.index.view import View

__all__ = ["RecallWatch", "Wait"]

# Waits so many seconds; True, at once, where the watch is to give up what it does.
Wait = Callable[[float], bool]

_QUERIES_KEPT: Final = 256
_QUERIES_AT_ONCE: Final = 32
_COMPARISONS_MAX: Final = 10_000_000  # a round, but one query at least
_QUERIES_ENOUGH: Final = 30  # before a segment is judged

_WORK_SECONDS: Final = 0.005
_REST_SHARE: Final = 3.0  # of the time worked, after each piece of work
_REST_SECONDS_MAX: Final = 0.25
_ROUND_REST_SHARE: Final = 9.0  # of the time a round took, after it
_BURST_SEARCHES: Final = 50  # in `_BURST_SECONDS`
_BURST_SECONDS: Final = 1.0


@dataclass(slots=True)
class _PartRecord:
    """What is known of one segment: how queries fared, and those it was tuned again for, by their digests."""

    known: frozenset[bytes] = frozenset()
    tallies: dict[bytes, Tally] = field(default_factory=dict)

    def note(self, digest: bytes, tally: Tally) -> None:
        if digest not in self.known and tally.wanted:
            _keep_newest(self.tallies, digest, tally)


class RecallWatch:
    """Measures and tunes again, one round at a time; one thread runs it, any may read `estimate`.

    Args:
        view_of: gives the current view.
        queries: gives recent queries, newest last.
        searches: tells how many searches there were so far.
        settings: how often, and the recall to reach.
        report: is told of what was tuned again, and of failures.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        view_of: Callable[[], View],
        queries: QuerySource,
        searches: Callable[[], int],
        *,
        settings: IndexSettings,
        report: Report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view_of = view_of
        self._queries = queries
        self._searches = searches
        self._settings = settings
        self._report = report
        self._clock = clock
        self._due = clock() + settings.recall_interval_seconds
        self._tallies: dict[bytes, Tally] = {}  # of `_shape`, by digest of the query, oldest first
        self._shape: object = None
        self._records: dict[str, _PartRecord] = {}  # by segment
        self._failure = ""
        self.estimate: RecallEstimate | None = None

    def seconds_until_due(self) -> float:
        """Return how long until the next round is due, 0 where it is, in a range that any clock can wait."""
        return min(max(0.0, self._due - self._clock()), threading.TIMEOUT_MAX)

    def run(self, wait: Wait) -> bool:
        """Do one round now, and put the next off; return whether a segment was tuned again.

        A failure is reported, the first of its kind, and is no reason not to try again.
        """
        begun = self._clock()
        try:
            return self._round(wait)
        except Exception as error:  # noqa: BLE001 - building must go on whatever fails here
            failure = f"{type(error).__name__}: {error}"
            if failure != self._failure:
                self._report(f"recall could not be measured and will be tried again ({failure})")
            self._failure = failure
            return False
        finally:
            ended = self._clock()
            self._due = ended + max(self._settings.recall_interval_seconds, _ROUND_REST_SHARE * (ended - begun))

    def _round(self, wait: Wait) -> bool:
        view = self._view_of()
        if not any(view.live_counts):
            # All of it is searched exactly: there is nothing to estimate.
            self._tallies.clear()
            self.estimate = None
            return False
        keep_going = _Patience(wait, self._searches, self._clock)
        queries = self._queries_by_digest()
        chosen = self._chosen(view, queries)
        if chosen:
            measured = measure(view, np.stack(list(chosen.values())), keep_going)
            if measured is None:
                return False
            self._note(view, dict(zip(chosen, measured, strict=True)))
        return bool(queries) and self._tune_again(view, queries, keep_going)

    def _queries_by_digest(self) -> dict[bytes, FloatArray]:
        """Return the recent queries (dim,), each once, newest last."""
        found: dict[bytes, FloatArray] = {}
        for query in self._queries():
            digest = hashlib.blake2b(query.tobytes(), digest_size=16).digest()
            found.pop(digest, None)
            found[digest] = query
        return found

    def _chosen(self, view: View, queries: Mapping[bytes, FloatArray]) -> dict[bytes, FloatArray]:
        """Return the newest queries that these segments, searched as they are now, were not measured with."""
        measured = self._tallies if self._shape == _shape_of(view) else {}
        new = [digest for digest in queries if digest not in measured]
        node_count = sum(part.segment.node_count for part in view.parts)
        count = min(max(1, _COMPARISONS_MAX // node_count), _QUERIES_AT_ONCE)
        return {digest: queries[digest] for digest in new[-count:]}

    def _note(self, view: View, measured: Mapping[bytes, Measured]) -> None:
        if self._shape != _shape_of(view):
            self._tallies.clear()
            self._shape = _shape_of(view)
        names = [part.entry.name for part in view.parts]
        self._records = {name: self._records.get(name, _PartRecord()) for name in names}
        for digest, one in measured.items():
            _keep_newest(self._tallies, digest, one.whole)
            for name, tally in one.parts.items():
                self._records[name].note(digest, tally)
        self.estimate = RecallEstimate(_recall_of(self._tallies), len(self._tallies), datetime.now(UTC))

    def _tune_again(self, view: View, queries: Mapping[bytes, FloatArray], keep_going: KeepGoing) -> bool:
        part = self._worst_part(view)
        if part is None:
            return False
        record = self._records[part.entry.name]
        before, recall, count = part.ef, _recall_of(record.tallies), len(record.tallies)
        # No less than it has: what was measured to need it is still asked.
        settings = replace(self._settings, ef_min=max(before, self._settings.ef_min))
        try:
            tuning = tune(
                part.segment,
                part.rows.vectors,
                np.stack(list(queries.values())),
                settings,
                cancelled=lambda: not keep_going(),
            )
        except BuildCancelledError:
            return False
        self._records[part.entry.name] = _PartRecord(known=frozenset(queries) | frozenset(record.tallies))
        if tuning.ef == before:
            return False
        part.tune(tuning)
        self._report(
            f"segment {part.entry.name} found {recall:.1%} of what {count} recent queries should find at ef {before}; "
            f"it is searched with ef {tuning.ef} from now on, which finds {tuning.recall:.1%}"
        )
        return True

    def _worst_part(self, view: View) -> SealedPart | None:
        """Return the segment that misses the target most, of those that enough queries tell of and more can be done."""
        missing = {
            part: _recall_of(record.tallies)
            for part in view.parts
            if (record := self._records.get(part.entry.name)) is not None
            and len(record.tallies) >= _QUERIES_ENOUGH
            and not is_widest(part.ef)
            and _recall_of(record.tallies) < self._settings.recall_target
        }
        return min(missing, key=lambda part: missing[part], default=None)


class _Patience:
    """Keeps a round going while nobody needs the machine, and rests it after each piece of work."""

    def __init__(self, wait: Wait, searches: Callable[[], int], clock: Callable[[], float]) -> None:
        self._wait = wait
        self._searches = searches
        self._clock = clock
        self._resumed = self._counted_since = clock()
        self._counted = searches()

    def __call__(self) -> bool:
        now = self._clock()
        worked = now - self._resumed
        if worked < _WORK_SECONDS:
            return True
        if self._is_burst(now) or self._wait(min(worked * _REST_SHARE, _REST_SECONDS_MAX)):
            return False
        self._resumed = self._clock()
        return True

    def _is_burst(self, now: float) -> bool:
        count = self._searches()
        if count - self._counted > _BURST_SEARCHES:
            return True
        if now - self._counted_since >= _BURST_SECONDS:
            self._counted_since, self._counted = now, count
        return False


def _shape_of(view: View) -> tuple[tuple[str, int], ...]:
    """Return what an estimate holds for: the segments, and how widely each is searched."""
    return tuple((part.entry.name, part.ef) for part in view.parts)


def _keep_newest(tallies: dict[bytes, Tally], digest: bytes, tally: Tally) -> None:
    tallies.pop(digest, None)
    tallies[digest] = tally
    if len(tallies) > _QUERIES_KEPT:
        del tallies[next(iter(tallies))]


def _recall_of(tallies: Mapping[bytes, Tally]) -> float:
    wanted = sum(tally.wanted for tally in tallies.values())
    return sum(tally.found for tally in tallies.values()) / wanted if wanted else 1.0
