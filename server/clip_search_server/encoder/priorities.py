"""Which threads give way where the processor is short; knows nothing of what they do.

A thread's priority (nice value) is inherited by the threads that it starts, those of an inference session included. So
a session that is opened on a thread which gives way computes only with what others leave, and about a quarter of the
processor where others want all of it.
"""

import contextlib
import os
import sys
import threading

__all__ = ["give_way"]

_NICE = 5


def give_way() -> None:
    """Let this thread, and those that it starts from now on, give way to others; for good."""
    if sys.platform == "linux":  # Elsewhere a nice value is that of a whole process.
        with contextlib.suppress(OSError):  # Some sandboxes forbid it; then all are equal.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
