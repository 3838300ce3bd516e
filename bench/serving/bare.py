"""A bundle's towers without a server around them: the ceiling of what a server can do; knows nothing of servers."""

import time
from dataclasses import dataclass

import numpy as np

from bench.serving.inputs import TEXT_LETTERS
from clip_search_server.bundle import Bundle
from clip_search_server.encoder.precision import choose_precision
from clip_search_server.encoder.sessions import OrtImageTower, OrtTextTower, choose_device
from clip_search_server.encoder.tokens import Tokenizer
from clip_search_server.encoder.towers import image_probe, text_probe
from clip_search_server.encoder.tuning.measure import Probe

__all__ = ["BareTowers", "BestBatch"]

BATCHES = (1, 2, 4, 8, 16)
"""As large as 16 clients that wait for each answer could fill at most."""


@dataclass(frozen=True, slots=True)
class BestBatch:
    """The batch size that a tower is fastest with, and inputs a second."""

    size: int
    per_second: float


class BareTowers:
    """Both towers with a thread a core, as the server runs the same graph."""

    def __init__(self, bundle: Bundle) -> None:
        device = choose_device("cpu")
        variant = choose_precision(bundle.manifest.variants, "float", device).name
        self._image = image_probe(OrtImageTower(bundle, variant, device), bundle.manifest.image_preprocessing.size)
        self._text = text_probe(OrtTextTower(bundle, variant, device))
        self.text_tokens = len(Tokenizer.from_bundle(bundle).encode("q" * TEXT_LETTERS).ids)

    def best(self, kind: str, seconds: float) -> BestBatch:
        """Return the best batch size for `text` or `image`; each gets its part of the time."""
        results = [BestBatch(size, self.rate(kind, size, seconds / len(BATCHES))) for size in BATCHES]
        return max(results, key=lambda result: result.per_second)

    def rate(self, kind: str, size: int, seconds: float) -> float:
        """Run batches of `size` for so long and return inputs a second."""
        probe, length = self._probe(kind)
        probe(size, length)
        times: list[float] = []
        until = time.perf_counter() + seconds
        while not times or time.perf_counter() < until:
            started = time.perf_counter()
            probe(size, length)
            times.append(time.perf_counter() - started)
        return size / float(np.mean(times))

    def single_ms(self, kind: str) -> float:
        """Run one input once and return milliseconds."""
        probe, length = self._probe(kind)
        started = time.perf_counter()
        probe(1, length)
        return (time.perf_counter() - started) * 1e3

    def _probe(self, kind: str) -> tuple[Probe, int]:
        return (self._image, 1) if kind == "image" else (self._text, self.text_tokens)
