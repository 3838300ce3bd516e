"""When a user is due for the next request, and from when a request's time counts; knows nothing of what is asked.

Users keep a timetable that does not depend on the answers (open loop). If a server stalls for three seconds, a user
who only asks after each answer would make one slow request where a real one had wanted three, and the percentiles would
hardly show it (coordinated omission). Here a request that was wanted while the one before was still out counts from
when it was wanted.
"""

import time
from collections.abc import Callable

__all__ = ["BEHIND_SECONDS_MAX", "Pace"]

#: Whoever is further behind gives a request up and starts a new timetable, so that no backlog grows without end.
BEHIND_SECONDS_MAX = 10.0


class Pace:
    """One user's timetable.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._due = self._free_since = clock()

    def plan(self, gap_seconds: float) -> None:
        """Make the next request due so long after the one before was due."""
        self._due += gap_seconds

    def wait_seconds(self) -> float:
        """Return how long to wait until the next request is due; 0 where it is overdue."""
        return max(0.0, self._due - self._clock())

    def begin(self) -> float:
        """Return the moment from which the request counts that is sent now.

        It is now, unless it was due while the one before was out: lateness of this process is none of the server's.
        """
        return self._due if self._due < self._free_since else self._clock()

    def end(self) -> None:
        """Take note that a request ended."""
        self._free_since = self._clock()

    def give_up(self) -> bool:
        """Where the user is too far behind, start a new timetable and say so."""
        now = self._clock()
        if now - self._due <= BEHIND_SECONDS_MAX:
            return False
        self._due = self._free_since = now
        return True
