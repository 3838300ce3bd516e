"""One thread that writes, and shares each commit among the callers that wait; knows nothing of what they write.

While one commit waits for the disk the next callers queue up, and the following commit serves all of them: many small
writes cost few syncs. A caller is answered only when its write is durable (under the durability policy) *and* visible
to readers.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar, cast

import apsw

from clip_search_server.errors import UnavailableError
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.store import Store
from clip_search_server.index.transaction import Change, Transaction
from clip_search_server.spans import Span, Stage

_Result = TypeVar("_Result")

# None asks for a sync of everything written before.
_Action = Callable[[Transaction], Any] | None


class _Waiting(NamedTuple):
    action: _Action
    future: "Future[Any]"
    span: Span | None
    since: float


class GroupCommitWriter:
    """Runs write actions in shared transactions.

    Args:
        store: used by this object's thread alone from now on.
        on_commit: makes committed changes visible; called before their callers are answered.
        settings: durability, queue and batch sizes.
    """

    def __init__(
        self, store: Store, on_commit: Callable[[Sequence[Change], int], None], settings: IndexSettings
    ) -> None:
        self._store = store
        self._on_commit = on_commit
        self._settings = settings
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._unsynced_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="index-writer", daemon=True)
        self._thread.start()

    def run(self, action: Callable[[Transaction], _Result]) -> _Result:
        """Run `action` in a transaction and return its result once that is durable and visible.

        Raises:
            UnavailableError: the disk failed or the collection is closed; nothing is acknowledged.
            Exception: whatever `action` raised; its writes are undone, those that shared its transaction stand.
        """
        return cast("_Result", self._submit(action))

    def sync(self) -> None:
        """Return once everything committed before is durable, whatever the durability setting."""
        if self._settings.durability == "interval":
            self._submit(None)

    def close(self) -> None:
        """Finish what waits, refuse what comes later, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _submit(self, action: _Action) -> object:
        with Stage("commit") as span:
            waiting = _Waiting(action, Future(), span, time.monotonic())
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._settings.writes_queued_max)
                if self._closed:
                    raise UnavailableError("the collection is closed")
                self._waiting.append(waiting)
                self._changed.notify_all()
            return waiting.future.result()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            if batch:
                self._commit([waiting for waiting in batch if waiting.action is not None])
                self._answer_syncs([waiting.future for waiting in batch if waiting.action is None])
            self._maintain()

    def _next_batch(self) -> list[_Waiting] | None:
        """Return what waits, an empty batch when it is time to sync, None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, self._seconds_to_sync())
            if not self._waiting:
                return None if self._closed else []
            count = min(len(self._waiting), self._settings.group_commit_operations_max)
            batch = [self._waiting.popleft() for _ in range(count)]
            self._changed.notify_all()
            return batch

    def _commit(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        outcomes: list[tuple[object, Exception | None]] = []
        started = time.monotonic()
        try:
            with self._store.transaction() as transaction:
                for action, *_ in batch:
                    outcomes.append(_attempt(cast("Callable[[Transaction], Any]", action), transaction))
            ended = time.monotonic()
            self._store.figures.commit_seconds.observe(ended - started)
            self._store.figures.commit_operations.observe(len(batch))
            self._unsynced_since = self._unsynced_since or ended
            self._make_visible(transaction)
        except Exception as error:  # noqa: BLE001 - whatever happened, nobody may be left waiting
            outcomes = [(None, error)] * len(batch)
        for waiting, (result, failure) in zip(batch, outcomes, strict=True):
            if waiting.span is not None:
                waiting.span.note(operations=len(batch), wait_seconds=started - waiting.since)
            if failure is None:
                waiting.future.set_result(result)
            else:
                waiting.future.set_exception(failure)

    def _make_visible(self, transaction: Transaction) -> None:
        try:
            self._on_commit(transaction.changes, transaction.sequence)
        except Exception as error:
            # Memory lags behind the disk from here on: better to write nothing more than to answer wrongly.
            self._store.refuse_writes(f"a committed write could not be shown: {error!r}")
            raise

    def _answer_syncs(self, futures: list["Future[Any]"]) -> None:
        for future in futures:
            try:
                self._store.sync()
                self._unsynced_since = None
                future.set_result(None)
            except UnavailableError as error:
                future.set_exception(error)

    def _seconds_to_sync(self) -> float | None:
        if self._settings.durability == "always" or self._unsynced_since is None or self._store.failure is not None:
            return None
        return max(0.0, self._unsynced_since + self._settings.sync_interval_seconds - time.monotonic())

    def _maintain(self) -> None:
        """Sync and fold the log when due; a failure is kept by the store, which then refuses writes."""
        try:
            if self._seconds_to_sync() == 0.0:
                self._store.sync()
                self._unsynced_since = None
            if self._store.log_pages >= self._settings.checkpoint_pages and self._store.failure is None:
                self._store.checkpoint()
        except UnavailableError:
            return


def _attempt(action: Callable[[Transaction], Any], transaction: Transaction) -> tuple[object, Exception | None]:
    try:
        with transaction.savepoint():
            return action(transaction), None
    except apsw.Error:
        raise
    except Exception as error:  # noqa: BLE001 - it belongs to the caller of this action alone
        return None, error
