"""Threads that let others go first where the processor is short; knows nothing of what they do.

On Linux each thread has a niceness of its own, which the threads that it starts inherit, those of an inference session
included. It can be raised by anyone and, as a rule, lowered by nobody, so such work gets a thread of its own.

Only work that hardly ever holds the interpreter's lock is fit for it: whoever waits for the lock waits for the thread
that holds it, however seldom that one gets a processor.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["run_nicely", "stand_back"]

_Result = TypeVar("_Result")


def run_nicely(work: Callable[[], _Result], *, niceness: int, name: str) -> _Result:
    """Run work on a thread of its own, and return its result or raise what it raises.

    Args:
        work: what to run.
        niceness: how far to stand back, 0 (not at all) to 19; on other systems than Linux nothing is changed.
        name: of the thread.
    """
    with ThreadPoolExecutor(1, name, initializer=stand_back, initargs=(niceness,)) as pool:
        return pool.submit(work).result()


def stand_back(niceness: int) -> None:
    """Let this thread, and those that it starts from now on, give way to others by so much; for good."""
    if sys.platform == "linux" and niceness:
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # Where that is forbidden, work goes on as it is.
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + niceness)
