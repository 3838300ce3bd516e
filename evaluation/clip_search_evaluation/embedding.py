"""Turns pictures and texts into vectors through the server's `Embed`, a bounded chunk at a time.

Two chunks are under way at once, so that one is read and sent while the other is embedded. A chunk has more than 16
inputs where there are so many, which makes it bulk work: people who search meanwhile go first. What one input cannot be
embedded for is noted and keeps none of the others back; what concerns the whole server is raised. Knows nothing of what
is measured.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from clip_search.client import Client
from clip_search.contents import Content, Image, Text
from clip_search.pictures import picture_bytes_max
from clip_search.results import Limits
from clip_search_evaluation.errors import EvaluationError
from clip_search_evaluation.metrics.arrays import FloatArray
from clip_search_evaluation.watching import Watch

__all__ = ["Embedded", "Embedder"]

_PICTURES_AT_ONCE = 32
_TEXTS_AT_ONCE = 256
_CHUNKS_AT_ONCE = 2


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """What became of inputs.

    Attributes:
        vectors: (inputs, dim), of unit length; zeros where there is none.
        failures: why there is none, by the input's row.
    """

    vectors: FloatArray
    failures: Mapping[int, str]


class Embedder:
    """Embeds with one model of a server.

    Args:
        client: asks for the model.
        limits: what the server holds requests to.
    """

    def __init__(self, client: Client, limits: Limits) -> None:
        self._client = client
        self._limits = limits

    def pictures(self, readers: Sequence[Callable[[], bytes]], watch: Watch) -> Embedded:
        """Embed pictures.

        Args:
            readers: each returns an encoded picture; raises OSError or ValueError where there is none.
            watch: is told of each picture.

        Raises:
            EvaluationError: not one can be embedded.
            ClipSearchError: the server does not answer.
        """
        size = min(_PICTURES_AT_ONCE, self._limits.items_per_request_max)
        return self._embed(_chunks(len(readers), size), lambda rows: self._some_pictures(rows, readers), watch)

    def texts(self, texts: Sequence[str], watch: Watch) -> Embedded:
        """Embed texts; see `pictures`."""
        size = min(_TEXTS_AT_ONCE, self._limits.items_per_request_max)
        chunks = _chunks(len(texts), size)
        return self._embed(chunks, lambda rows: self._ask([(row, Text(texts[row])) for row in rows]), watch)

    def _embed(self, chunks: Sequence[range], work: "Callable[[range], _Outcomes]", watch: Watch) -> Embedded:
        outcomes: _Outcomes = {}
        with ThreadPoolExecutor(_CHUNKS_AT_ONCE) as pool:
            futures = [pool.submit(work, rows) for rows in chunks]
            try:
                for rows, future in zip(chunks, futures, strict=True):
                    outcomes |= future.result()
                    watch.passed(len(rows))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return _gathered(outcomes)

    def _some_pictures(self, rows: range, readers: Sequence[Callable[[], bytes]]) -> "_Outcomes":
        """Embed a chunk in as many requests as the bound of messages makes necessary."""
        bytes_max = picture_bytes_max(self._limits)
        outcomes: _Outcomes = {}
        pending: list[tuple[int, Content]] = []
        pending_bytes = 0
        for row in rows:
            try:
                data = readers[row]()
            except (OSError, ValueError) as error:
                outcomes[row] = f"cannot be read: {getattr(error, 'strerror', None) or error}"
                continue
            if len(data) > bytes_max:
                outcomes[row] = f"has {len(data):,} bytes, and the server takes {bytes_max:,}"
                continue
            if pending_bytes + len(data) > bytes_max:
                outcomes |= self._ask(pending)
                pending, pending_bytes = [], 0
            pending.append((row, Image(data)))
            pending_bytes += len(data)
        return outcomes | self._ask(pending)

    def _ask(self, inputs: Sequence[tuple[int, Content]]) -> "_Outcomes":
        if not inputs:
            return {}
        answers = self._client.embed(content for _, content in inputs).outcomes
        return {
            row: str(answer.error) if answer.vector is None else answer.vector
            for (row, _), answer in zip(inputs, answers, strict=True)
        }


# A vector, or why there is none, by row.
_Outcomes = dict[int, "FloatArray | str"]


def _chunks(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _vectors(outcomes: _Outcomes) -> Iterator[FloatArray]:
    return (each for each in outcomes.values() if not isinstance(each, str))


def _gathered(outcomes: _Outcomes) -> Embedded:
    example = next(_vectors(outcomes), None)
    if example is None:
        reasons = [each for each in outcomes.values() if isinstance(each, str)]
        raise EvaluationError(f"nothing could be embedded; the first reason: {reasons[0] if reasons else 'no inputs'}")
    vectors = np.zeros((len(outcomes), example.size), np.float32)
    for row, outcome in outcomes.items():
        if not isinstance(outcome, str):
            vectors[row] = outcome
    return Embedded(vectors, {row: each for row, each in sorted(outcomes.items()) if isinstance(each, str)})
