"""Measures how late a Locust process itself is: users are greenlets, and one that computes keeps all others waiting.

A request's time cannot be shorter than what its own process was late meanwhile, so the report shows both. Each process
measures itself; workers report to the master. Knows nothing of requests.
"""

import time
from typing import Any

import gevent

__all__ = ["Stalls"]

_STEP_SECONDS = 0.02
_KEY = "stalls_ms_max"


class Stalls:
    """The longest stalls of this process, and of those that report to it.

    Attributes:
        worst_ms: the longest of each process, in milliseconds, by its name.
    """

    def __init__(self) -> None:
        self.worst_ms: dict[str, float] = {}
        self._since_report_ms = 0.0

    def watch(self, name: str) -> None:
        """Measure this process from now on, in a greenlet of its own."""
        self.worst_ms[name] = 0.0
        gevent.spawn(self._watch, name)

    def _watch(self, name: str) -> None:
        while True:
            started = time.perf_counter()
            gevent.sleep(_STEP_SECONDS)
            self.note(name, 1000 * (time.perf_counter() - started - _STEP_SECONDS))

    def begin(self) -> None:
        """Forget what was before the run: starting takes its time, and keeps no user waiting."""
        self.worst_ms = dict.fromkeys(self.worst_ms, 0.0)
        self._since_report_ms = 0.0

    def note(self, name: str, late_ms: float) -> None:
        """Take note that a process was late."""
        self.worst_ms[name] = max(self.worst_ms.get(name, 0.0), late_ms)
        self._since_report_ms = max(self._since_report_ms, late_ms)

    def on_report(self, client_id: str, data: dict[str, Any]) -> None:  # noqa: ARG002 - Locust's signature
        """Add to a worker's report the longest stall since the last one."""
        data[_KEY] = self._since_report_ms
        self._since_report_ms = 0.0

    def on_worker_report(self, client_id: str, data: dict[str, Any]) -> None:
        """Take note of what a worker reported."""
        self.note(client_id, float(data.get(_KEY, 0.0)))
