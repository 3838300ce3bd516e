"""Prepares things before they are needed, in their order, so many and no more; knows nothing of pictures or servers.

One thread draws from the given iterator (which may wait for a disk or a server), a few prepare what it draws, and
whoever iterates over the result is given one after the other. What is prepared and not yet taken is bounded in number
and in bytes.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

__all__ = ["ReadAhead"]

_Drawn = TypeVar("_Drawn")
_Prepared = TypeVar("_Prepared")

_THREADS = 4
_THINGS_MAX = 64
_BYTES_MAX = 64 * 1024 * 1024
_JOIN_SECONDS_MAX = 2.0


class ReadAhead(Generic[_Drawn, _Prepared]):
    """An iterator that is ahead of whoever draws from it, as a context manager.

    Args:
        things: what is drawn from, in a thread of its own; what it raises, iterating raises.
        prepare: makes of each what is wanted; in threads.
        bytes_of: how much memory a prepared thing takes, as far as is known before.
        things_max: how many are ahead.
        bytes_max: and how many bytes; a single thing may be larger.
    """

    def __init__(
        self,
        things: Iterable[_Drawn],
        prepare: Callable[[_Drawn], _Prepared],
        bytes_of: Callable[[_Drawn], int],
        *,
        things_max: int = _THINGS_MAX,
        bytes_max: int = _BYTES_MAX,
    ) -> None:
        self._things = things
        self._prepare = prepare
        self._bytes_of = bytes_of
        self._things_max = things_max
        self._bytes_max = bytes_max
        self._ahead: deque[tuple[Future[_Prepared], int]] = deque()
        self._ahead_bytes = 0
        self._finished = False
        self._closed = False
        self._error: BaseException | None = None
        self._moved = threading.Condition()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="read-ahead")
        # A daemon: should it wait for a server that does not answer, the program need not.
        self._thread = threading.Thread(target=self._draw, name="read-ahead-draw", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Draw nothing more; whoever waits for more gets nothing."""
        with self._moved:
            self._closed = True
            self._moved.notify_all()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._thread.join(_JOIN_SECONDS_MAX)

    def __iter__(self) -> Iterator[_Prepared]:
        """Give what was prepared, in the order in which it was drawn; by one thread at a time."""
        while True:
            with self._moved:
                self._moved.wait_for(lambda: self._ahead or self._finished or self._closed)
                if self._closed:
                    return
                if not self._ahead:
                    break
                future, size_bytes = self._ahead[0]
            try:
                prepared = future.result()
            except CancelledError:  # closed meanwhile
                return
            with self._moved:
                self._ahead.popleft()
                self._ahead_bytes -= size_bytes
                self._moved.notify_all()
            yield prepared
        if self._error is not None:
            raise self._error

    def _draw(self) -> None:
        try:
            for thing in self._things:
                if not self._put(thing):
                    return
        except BaseException as error:  # noqa: BLE001  # kept for whoever iterates
            self._error = error
        finally:
            with self._moved:
                self._finished = True
                self._moved.notify_all()

    def _put(self, thing: _Drawn) -> bool:
        """Wait for room; False once nobody wants more."""
        size_bytes = self._bytes_of(thing)
        with self._moved:
            self._moved.wait_for(lambda: self._closed or self._has_room(size_bytes))
            if self._closed:
                return False
            self._ahead.append((self._pool.submit(self._prepare, thing), size_bytes))
            self._ahead_bytes += size_bytes
            self._moved.notify_all()
            return True

    def _has_room(self, size_bytes: int) -> bool:
        if not self._ahead:
            return True
        return len(self._ahead) < self._things_max and self._ahead_bytes + size_bytes <= self._bytes_max
