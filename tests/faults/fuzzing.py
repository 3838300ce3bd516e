"""Runs many inputs through a target in child processes, so that a crash or a hang is noticed and named.

A target is a function of a number: it makes the input of that number and uses it. It may raise what it declares to be
an answer. An input that takes longer than `HANG_SECONDS`, ends the process, takes too much memory or raises anything
else is a finding; the run goes on behind it.
"""

import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

HANG_SECONDS = 20.0
_FINDINGS_MAX = 5
_MEMORY_BYTES_MAX = 3 * 2**30
"""Of a child's address space beyond what it has at the start."""
_POLL_SECONDS = 0.2

_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Target:
    """What is fuzzed.

    Args:
        make: is called once in the child, with `arguments`, and returns the function of a number.
        answers: exceptions that are good answers.
        arguments: picklable.
    """

    make: Callable[..., Callable[[int], None]]
    answers: tuple[type[Exception], ...]
    arguments: tuple[Any, ...] = ()


def findings_of(target: Target, inputs: int, *, processes: int = 2) -> list[str]:
    """Run inputs 0 to `inputs` - 1 and return a sentence for each that hurts, at most a few."""
    share = -(-inputs // processes)
    lanes = [_Lane(target, start, min(start + share, inputs)) for start in range(0, inputs, share)]
    try:
        while any(lane.is_busy for lane in lanes) and sum(len(lane.findings) for lane in lanes) < _FINDINGS_MAX:
            for lane in lanes:
                lane.look()
            time.sleep(_POLL_SECONDS)
    finally:
        for lane in lanes:
            lane.stop()
    assert all(lane.findings or lane.done == lane.end for lane in lanes), "inputs were left out. This is a bug."
    return [finding for lane in lanes for finding in lane.findings]


class _Lane:
    """A range of inputs and the child that runs them."""

    def __init__(self, target: Target, start: int, end: int) -> None:
        self.end = end
        self.done = start
        self.findings: list[str] = []
        self._target = target
        self._begin()

    @property
    def is_busy(self) -> bool:
        """Whether inputs are left."""
        return self.done < self.end

    def look(self) -> None:
        """Note how far the child is; where it is dead or stuck, say so and go on behind that input."""
        if not self.is_busy:
            return
        while self._results.poll():
            try:
                self.findings.append(self._results.recv())
            except EOFError:
                break
        position = self._position.value
        if position != self.done:
            self.done, self._moved_at = position, time.monotonic()
        if not self.is_busy:
            return
        if not self._process.is_alive():
            if self._position.value == self.done:
                self._go_on_behind(f"input {self.done} ended the process with exit code {self._process.exitcode}")
        elif time.monotonic() - self._moved_at > HANG_SECONDS:
            self._go_on_behind(f"input {self.done} takes longer than {HANG_SECONDS:.0f} s")

    def stop(self) -> None:
        """End the child."""
        self._process.kill()
        self._process.join()
        self._results.close()

    def _begin(self) -> None:
        self._position = _CONTEXT.Value("Q", self.done)
        self._results, sender = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_run, args=(self._target, self.end, self._position, sender))
        self._process.start()
        sender.close()
        self._moved_at = time.monotonic() + HANG_SECONDS  # starting takes a while too

    def _go_on_behind(self, finding: str) -> None:
        self.findings.append(finding)
        self.stop()
        self.done += 1
        if self.is_busy and len(self.findings) < _FINDINGS_MAX:
            self._begin()
        else:
            self.end = self.done


def _run(target: Target, end: int, position: Any, results: Connection) -> None:
    warnings.simplefilter("ignore")  # decoders warn of odd metadata
    function = target.make(*target.arguments)
    _bound_memory()
    for number in range(position.value, end):
        try:
            function(number)
        except target.answers:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever else escapes is a finding
            results.send(f"input {number} raised {error!r}")
        position.value = number + 1
    results.close()


def _bound_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as figures:  # noqa: PTH123 - one line of a pseudo-file
        pages = int(figures.read().split()[0])
    limit = pages * resource.getpagesize() + _MEMORY_BYTES_MAX
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
