"""Gathers single requests into batches for a tower; knows nothing of pictures, texts or ONNX Runtime.

An idle batcher starts at once with what is there; a busy one lets the queue fill, so batches grow with load and a lone
request never waits for company. Rules:

* Interactive work goes ahead of bulk work; while the oldest bulk entry has waited longer than `bulk_wait_seconds_max`,
  they take turns.
* Only entries of one group (texts of similar length) share a batch.
* Cancelled and expired entries are dropped before the batch forms.
* When a batch fails, its entries run again one by one, so that only the bad one fails.
* The queue is bounded: one entry too many is refused at once and told when to come back.
* Every future that was handed out is completed, also on failure and on close.

All methods run on one event loop; only `run` is called on the executor's thread.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from clip_search_server.errors import DeadlineExceededError, ResourceExhaustedError, UnavailableError

__all__ = ["Batcher", "Urgency"]

Input = TypeVar("Input")
Output = TypeVar("Output")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Urgency:
    """When an answer is wanted.

    Args:
        deadline: on the clock of `time.monotonic`, None for none.
        bulk: True for work that nobody watches, such as ingest.
    """

    deadline: float | None = None
    bulk: bool = False


@dataclass(slots=True)
class _Entry(Generic[Input, Output]):
    input: Input
    group: Hashable
    urgency: Urgency
    future: "asyncio.Future[Output]"
    queued_at: float = field(default_factory=time.monotonic)


class Batcher(Generic[Input, Output]):
    """Runs inputs through `run` in batches."""

    def __init__(
        self,
        run: Callable[[list[Input]], Sequence[Output]],
        executor: Executor,
        *,
        name: str,
        batch_size_max: int,
        queue_length_max: int,
        bulk_wait_seconds_max: float = 0.5,
        group: Callable[[Input], Hashable] = lambda _: None,
    ) -> None:
        """Start idle.

        Args:
            run: maps inputs to as many outputs in the same order; blocks; called on `executor`.
            executor: where `run` runs; it should have one thread, or batches overtake each other.
            name: what is batched, for messages.
            batch_size_max: entries in one batch.
            queue_length_max: entries that may wait.
            bulk_wait_seconds_max: after this long bulk entries go first in every other batch.
            group: entries share a batch only when their groups are equal.
        """
        self._run = run
        self._executor = executor
        self._name = name
        self._batch_size_max = batch_size_max
        self._queue_length_max = queue_length_max
        self._bulk_wait_seconds_max = bulk_wait_seconds_max
        self._group = group
        self._interactive: deque[_Entry[Input, Output]] = deque()
        self._bulk: deque[_Entry[Input, Output]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._closed = False
        self._bulk_went_first = False
        self._seconds_per_entry = 0.01

    @property
    def queue_length(self) -> int:
        """How many entries wait."""
        return len(self._interactive) + len(self._bulk)

    async def submit(self, value: Input, urgency: Urgency) -> Output:
        """Return the output for `value`.

        Raises:
            ResourceExhaustedError: the queue is full.
            DeadlineExceededError: the deadline passed before a batch took the entry.
            UnavailableError: the batcher is closed.
            Exception: what `run` raised for this input alone.
        """
        if self._closed:
            raise UnavailableError("The server is stopping.")
        if self.queue_length >= self._queue_length_max:
            raise ResourceExhaustedError(
                f"The {self._name} queue is full ({self._queue_length_max} entries).",
                retry_after_seconds=min(10.0, self.queue_length * self._seconds_per_entry / 2),
            )
        entry = _Entry[Input, Output](value, self._group(value), urgency, asyncio.get_running_loop().create_future())
        (self._bulk if urgency.bulk else self._interactive).append(entry)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run_until_empty(), name=f"{self._name} batcher")
        return await entry.future

    async def close(self) -> None:
        """Refuse new entries and finish those that are queued."""
        self._closed = True
        if self._runner is not None:
            await self._runner

    async def _run_until_empty(self) -> None:
        try:
            while batch := self._next_batch():
                await self._run_batch(batch)
        finally:
            self._runner = None
            # Left over only when this task was cancelled or failed: nobody may hang.
            for entry in (*self._interactive, *self._bulk):
                _fail(entry, UnavailableError("The server is stopping."))
            self._interactive.clear()
            self._bulk.clear()

    def _next_batch(self) -> list[_Entry[Input, Output]]:
        """Take the next batch off the queues; empty when nothing waits."""
        self._interactive = _without_dead(self._interactive)
        self._bulk = _without_dead(self._bulk)
        queues = [self._interactive, self._bulk]
        # Never twice in a row: where the bulk queue is always old, people get every other batch.
        aged = bool(self._bulk) and time.monotonic() - self._bulk[0].queued_at > self._bulk_wait_seconds_max
        self._bulk_went_first = aged and not self._bulk_went_first
        if self._bulk_went_first:
            queues.reverse()
        head = next((queue[0] for queue in queues if queue), None)
        if head is None:
            return []
        batch: list[_Entry[Input, Output]] = []
        for queue in queues:
            self._fill(batch, queue, head.group)
        return batch

    def _fill(self, batch: list[_Entry[Input, Output]], queue: "deque[_Entry[Input, Output]]", group: Hashable) -> None:
        """Move entries of `group` from `queue` to `batch`, oldest first, while there is room."""
        passed: list[_Entry[Input, Output]] = []
        while queue and len(batch) < self._batch_size_max:
            entry = queue.popleft()
            (batch if entry.group == group else passed).append(entry)
        queue.extendleft(reversed(passed))

    async def _run_batch(self, batch: list[_Entry[Input, Output]]) -> None:
        started = time.monotonic()
        try:
            outputs = await self._call(batch)
        except Exception as error:  # noqa: BLE001 - whatever a batch raises belongs to its entries
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            _LOG.warning("A %s batch of %d failed and runs again one by one: %s", self._name, len(batch), error)
            for entry in batch:
                await self._run_batch([entry])
            return
        for entry, output in zip(batch, outputs, strict=True):
            if not entry.future.done():
                entry.future.set_result(output)
        seconds = (time.monotonic() - started) / len(batch)
        self._seconds_per_entry += 0.2 * (seconds - self._seconds_per_entry)

    async def _call(self, batch: list[_Entry[Input, Output]]) -> Sequence[Output]:
        loop = asyncio.get_running_loop()
        outputs = await loop.run_in_executor(self._executor, self._run, [entry.input for entry in batch])
        if len(outputs) != len(batch):
            raise RuntimeError(f"{len(batch)} inputs gave {len(outputs)} outputs. This is a bug.")
        return outputs


def _without_dead(queue: "deque[_Entry[Input, Output]]") -> "deque[_Entry[Input, Output]]":
    """Return the entries that still have somebody waiting and time left; fail the expired ones."""
    now = time.monotonic()
    alive: deque[_Entry[Input, Output]] = deque()
    for entry in queue:
        if entry.future.done():
            continue
        if entry.urgency.deadline is not None and entry.urgency.deadline <= now:
            _fail(entry, DeadlineExceededError("The deadline passed while the request was queued."))
            continue
        alive.append(entry)
    return alive


def _fail(entry: _Entry[Input, Output], error: BaseException) -> None:
    if not entry.future.done():
        entry.future.set_exception(error)
