"""Forms batches of what waits, runs them, and answers each entry; knows nothing of pictures, texts or ONNX Runtime.

An idle batcher starts at once with what is there; a busy one lets the queue fill, so batches grow with load and a lone
request never waits for company. Rules:

* Interactive work goes ahead of bulk work; while the oldest bulk entry has waited longer than `bulk_wait_seconds_max`,
  they take turns. What room interactive work leaves in a batch, bulk work fills.
* Within both, clients take turns.
* A batch is bounded in inputs, in units of work and in padding (`bounds.py`); the entry whose turn it is always goes.
* Entries that nobody waits for any more, or that could not be finished before their deadline if they ran now, are
  dropped before the batch forms.
* When a batch fails, its entries run again one by one, so that only the bad one fails.
* Every future that was handed out is completed, also on failure and on close.

How much may wait is bounded by whoever calls (`door.py`). All methods run on one event loop; only `run` is called on
the executor's thread.
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from clip_search_server.encoder.batching.bounds import BatchBounds, BatchShape
from clip_search_server.encoder.batching.following import followed, let_go
from clip_search_server.encoder.batching.line import Entry, Line
from clip_search_server.encoder.batching.pace import Pace
from clip_search_server.encoder.batching.urgency import Urgency
from clip_search_server.encoder.figures import BatchFigures
from clip_search_server.errors import DeadlineExceededError, UnavailableError
from clip_search_server.spans import Span

__all__ = ["Batcher"]

Input = TypeVar("Input")
Output = TypeVar("Output")

_LOG = logging.getLogger(__name__)


class Batcher(Generic[Input, Output]):
    """Runs inputs through `run` in batches."""

    def __init__(
        self,
        run: Callable[[list[Input]], Sequence[Output]],
        executor: Executor,
        *,
        name: str,
        bounds: BatchBounds,
        model: str = "",
        pace: Pace | None = None,
        length: Callable[[Input], int] = lambda _: 1,
        bulk_wait_seconds_max: float = 2.0,
    ) -> None:
        """Start idle.

        Args:
            run: maps inputs to as many outputs in the same order; blocks; called on `executor`.
            executor: where `run` runs; it should have one thread, or batches overtake each other.
            name: what is batched, for messages.
            bounds: the largest batch; may be changed at any time.
            model: whose tower it is, for spans.
            pace: how long batches take, as far as it was measured.
            length: units of work of an input.
            bulk_wait_seconds_max: after this long bulk entries go first in every other batch.
        """
        self.bounds = bounds
        self.pace = pace or Pace()
        self.figures = BatchFigures()
        self._run = run
        self._executor = executor
        self._name = name
        self._model = model
        self._length = length
        self._bulk_wait_seconds_max = bulk_wait_seconds_max
        self._interactive = Line[Input, Output]()
        self._bulk = Line[Input, Output]()
        self._runner: asyncio.Task[None] | None = None
        self._closed = False
        self._bulk_went_first = False

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return self._runner is None

    async def submit(self, value: Input, urgency: Urgency) -> Output:
        """Return the output for `value`.

        Raises:
            DeadlineExceededError: the deadline passed before a batch took the entry, or would have while it ran.
            UnavailableError: the batcher is closed.
            Exception: what `run` raised for this input alone.
        """
        if self._closed:
            raise UnavailableError("The server is stopping.")
        future: asyncio.Future[Output] = asyncio.get_running_loop().create_future()
        entry = Entry[Input, Output](value, self._length(value), urgency, future)
        (self._bulk if urgency.bulk else self._interactive).append(entry)
        if self._runner is None:
            # In a context of its own: it works for all requests, not for the one that happened to come first.
            self._runner = asyncio.create_task(
                self._run_until_empty(), name=f"{self._name} batcher", context=contextvars.Context()
            )
        return await future

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
            for entry in (*self._interactive.drain(), *self._bulk.drain()):
                entry.fail(UnavailableError("The server is stopping."))

    def _next_batch(self) -> list[Entry[Input, Output]]:
        """Take the next batch out of the lines; empty when nothing waits."""
        lines = [self._interactive, self._bulk]
        # Never twice in a row: where the bulk line is always old, people get every other batch.
        since = self._bulk.oldest_queued_at()
        aged = since is not None and time.monotonic() - since > self._bulk_wait_seconds_max
        self._bulk_went_first = aged and not self._bulk_went_first
        if self._bulk_went_first:
            lines.reverse()
        batch: list[Entry[Input, Output]] = []
        shape = BatchShape()
        for line in lines:
            taken, shape = self._take(line, shape)
            line.settle(taken)
            batch += taken
        now = time.monotonic()
        for entry in batch:
            self.figures.wait_seconds.observe(now - entry.queued_at)
        return batch

    def _take(self, line: Line[Input, Output], shape: BatchShape) -> tuple[list[Entry[Input, Output]], BatchShape]:
        """Take entries of `line`, in turn, that fit into a batch of `shape`; return them and what it became."""
        taken: list[Entry[Input, Output]] = []
        for entry in line.in_turn():
            if shape.size >= self.bounds.size_max:
                break
            grown = shape.with_input(entry.length)
            if grown.fits(self.bounds) and self._can_finish(entry):
                entry.taken = True
                taken.append(entry)
                shape = grown
        return taken, shape

    def _can_finish(self, entry: Entry[Input, Output]) -> bool:
        """Tell whether an entry could be answered in time if it ran now and alone; where not, tell whoever waits."""
        if entry.urgency.remaining_seconds() > self.pace.seconds(entry.length):
            return True
        entry.fail(DeadlineExceededError("The deadline passed while the request was queued."))
        return False

    async def _run_batch(self, batch: list[Entry[Input, Output]]) -> None:
        try:
            await self._answer(batch)
        except Exception as error:  # noqa: BLE001 - whatever a batch raises belongs to its entries
            self.figures.failures.add()
            if len(batch) == 1:
                batch[0].fail(error)
                return
            _LOG.warning("A %s batch of %d failed and runs again one by one: %s", self._name, len(batch), error)
            for entry in batch:
                if not entry.future.done() and self._can_finish(entry):
                    entry.queued_at = time.monotonic()  # Its wait before the first batch has been told.
                    await self._run_batch([entry])
        finally:
            for entry in batch:  # Left over only when this task was cancelled.
                entry.fail(UnavailableError("The server is stopping."))

    async def _answer(self, batch: list[Entry[Input, Output]]) -> None:
        started = time.monotonic()
        inputs = [entry.input for entry in batch]
        spans = self._followed(batch, started)
        try:
            outputs = await asyncio.get_running_loop().run_in_executor(self._executor, self._guarded, inputs)
        except BaseException as error:
            let_go(spans, time.monotonic(), error)
            raise
        ended = time.monotonic()
        let_go(spans, ended)
        self._note(batch, ended - started)
        for entry, output in zip(batch, outputs, strict=True):
            if not entry.future.done():
                entry.future.set_result(output)

    def _followed(self, batch: list[Entry[Input, Output]], started: float) -> list[Span]:
        if all(entry.span is None for entry in batch):
            return []
        lengths = [entry.length for entry in batch]
        units = len(lengths) * max(lengths)
        return followed(
            f"{self._name} batch",
            batch,
            started,
            model=self._model,
            inputs=len(lengths),
            units=units,
            padding_units=units - sum(lengths),
        )

    def _note(self, batch: list[Entry[Input, Output]], seconds: float) -> None:
        lengths = [entry.length for entry in batch]
        units = len(lengths) * max(lengths)
        self.pace.observe(units, seconds)
        self.figures.sizes.observe(len(lengths))
        self.figures.run_seconds.observe(seconds)
        self.figures.units.add(units)
        self.figures.padding_units.add(units - sum(lengths))

    def _guarded(self, inputs: list[Input]) -> Sequence[Output]:
        """Run inputs on the executor's thread; what goes wrong is an error of this batch, never of the thread."""
        try:
            outputs = self._run(inputs)
        except Exception:
            raise
        except BaseException as error:
            raise RuntimeError(f"The {self._name} tower ended with {error!r}.") from error
        if len(outputs) != len(inputs):
            raise RuntimeError(f"{len(inputs)} inputs gave {len(outputs)} outputs. This is a bug.")
        return outputs
