"""Counts calls by method and outcome, and how long they took; knows nothing of gRPC and of Prometheus.

Written on the event loop alone, see `observation.py`. Methods are those that it is made for; any other one, such as
gRPC's own, counts as `other`, so that callers cannot make up labels.
"""

from collections.abc import Iterable, Mapping

from clip_search_server.observation import Counter, Histogram

__all__ = ["CallFigures"]

_OTHER = "other"


class CallFigures:
    """What became of calls.

    Args:
        methods: full names, such as `/clip_search.v1.SearchService/Search`; labels are `SearchService/Search`.

    Attributes:
        open_streams: streams that are open now.
    """

    def __init__(self, methods: Iterable[str]) -> None:
        self._labels = {method: method.rpartition(".")[2] for method in methods}
        self._codes: dict[tuple[str, str], Counter] = {}
        self._seconds: dict[str, Histogram] = {}
        self.open_streams = 0

    def note(self, method: str, code: str, seconds: float) -> None:
        """Count a call that has ended.

        Args:
            method: its full name.
            code: name of the status that it ended with, `CANCELLED` where nobody waited for one.
            seconds: from its arrival until its answer was sent.
        """
        label = self._labels.get(method, _OTHER)
        counter = self._codes.get((label, code))
        if counter is None:
            counter = self._codes[label, code] = Counter()
            self._seconds.setdefault(label, Histogram())
        counter.add()
        self._seconds[label].observe(seconds)

    def codes(self) -> Mapping[tuple[str, str], Counter]:
        """Return how many calls there were of each method and outcome that there were any of."""
        return dict(self._codes)

    def seconds(self) -> Mapping[str, Histogram]:
        """Return how long the calls of each method took, whatever their outcome."""
        return dict(self._seconds)
