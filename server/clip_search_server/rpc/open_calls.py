"""How many calls are open, how many bytes they sent, and whether more may come; knows nothing of methods and messages.

Beyond a bound a call is refused at once, before its message is read where possible, and told when to come back: the
rate at which calls have been finishing says when that is. Once the server drains, every new call is refused.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from clip_search_server.encoder.batching.drain import DrainRate
from clip_search_server.errors import ResourceExhaustedError, UnavailableError
from clip_search_server.limits import Limits

__all__ = ["OpenCalls", "when_call_is_over"]


def when_call_is_over(act: Callable[[], None]) -> None:
    """Act once the current task ends, which handles a call: then its answer has been sent, or its caller has gone."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a call is handled outside of any task. This is a bug.")
    task.add_done_callback(lambda _task: act())


class OpenCalls:
    """Counts calls of the API from their first message to their end."""

    def __init__(self, limits: Limits) -> None:
        self.draining = asyncio.Event()
        """Set once the server stops: streams should end with what they have accepted."""
        self._calls_max = limits.calls_max
        self._bytes_max = limits.bytes_in_flight_max
        self._answer_bytes_max = limits.message_bytes_max
        self._calls = 0
        self._bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._drain = DrainRate(backlog_min=limits.calls_max // 2)

    @property
    def count(self) -> int:
        """How many calls are open."""
        return self._calls

    def drain(self) -> None:
        """Refuse new calls from now on, and let streams know."""
        self.draining.set()

    async def wait_until_idle(self) -> None:
        """Return once no call is open."""
        await self._idle.wait()

    def check(self) -> None:
        """Refuse a new call where it may not come in.

        Raises:
            UnavailableError: the server is stopping.
            ResourceExhaustedError: as many calls are open as may be.
        """
        if self.draining.is_set():
            raise UnavailableError("The server is stopping; nothing was changed. Ask another, or this one later.")
        if self._calls >= self._calls_max:
            raise ResourceExhaustedError(
                f"{self._calls} calls are open; at most {self._calls_max} are accepted at a time (calls_max).",
                retry_after_seconds=self._drain.pushback_seconds(self._calls // 2),
            )

    def enter(self) -> None:
        """Count the call in that the current task handles; it counts until the task ends, its answer sent.

        Raises:
            UnavailableError, ResourceExhaustedError: as `check`.
        """
        self.check()
        when_call_is_over(self._leave)
        self._calls += 1
        self._idle.clear()
        self._drain.enter()

    def _leave(self) -> None:
        self._drain.leave(finished=True)
        self._calls -= 1
        if not self._calls:
            self._idle.set()

    @contextlib.contextmanager
    def holding(self, size_bytes: int) -> Iterator[None]:
        """Hold a request of `size_bytes` while it is worked on; a single one may exceed the bound and is alone then.

        Raises:
            ResourceExhaustedError: too many bytes are held by other calls.
        """
        if self._bytes and self._bytes + size_bytes > self._bytes_max:
            raise ResourceExhaustedError(
                f"{self._bytes:,} bytes of requests are being worked on and this one has {size_bytes:,}; at most "
                f"{self._bytes_max:,} are accepted at a time (bytes_in_flight_max).",
                retry_after_seconds=self._drain.pushback_seconds(self._calls // 2),
            )
        self._bytes += size_bytes
        try:
            yield
        finally:
            self._bytes -= size_bytes

    def check_answer(self, size_bytes: int) -> None:
        """Refuse to send an answer that gRPC would not, which tells the caller less and the log more than it should.

        Raises:
            ResourceExhaustedError: it is larger than a message may be.
        """
        if size_bytes > self._answer_bytes_max:
            raise ResourceExhaustedError(
                f"The answer has {size_bytes:,} bytes; at most {self._answer_bytes_max:,} are sent in a message "
                "(message_bytes_max). Ask for fewer at a time.",
                retry_after_seconds=None,
            )
