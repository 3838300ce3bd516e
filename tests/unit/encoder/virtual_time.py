"""An event loop whose clock jumps to the next event: seconds of waiting take no time, and always come out the same."""

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

import pytest

__all__ = ["VirtualExecutor", "run_in_virtual_time"]

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting it moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Give what is ready; where nothing is, let the time pass that one would wait."""
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits for something that nobody will do"
            self.now += timeout
        return ready


class VirtualExecutor(Executor):
    """Runs functions at once, and hands their results over after as many seconds as `seconds` says."""

    def __init__(self, seconds: Callable[..., float]) -> None:
        self._seconds = seconds
        self._free_at = 0.0

    def submit(self, function: Callable[..., T], /, *arguments: Any, **options: Any) -> "Future[T]":
        """Serve as one thread: what is submitted meanwhile waits."""
        future: Future[T] = Future()
        loop = asyncio.get_running_loop()
        self._free_at = max(self._free_at, loop.time()) + self._seconds(*arguments)
        loop.call_at(self._free_at, lambda: future.set_result(function(*arguments, **options)))
        return future


def run_in_virtual_time(monkeypatch: pytest.MonkeyPatch, scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine with `time.monotonic` and the event loop on a clock that jumps."""
    selector = _JumpingSelector()
    monkeypatch.setattr(time, "monotonic", lambda: selector.now)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        return runner.run(scenario())
