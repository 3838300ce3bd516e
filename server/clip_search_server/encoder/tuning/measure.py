"""Times a tower on batches of several shapes, with several numbers of threads; knows nothing of what becomes of it."""

import time
from collections.abc import Callable, Iterable, Sequence

from clip_search_server.encoder.tuning.timings import BATCH_SECONDS_LONGEST, Timing, TowerTuning

__all__ = ["Probe", "image_shapes", "measure_shapes", "measure_tower", "text_shapes", "thread_counts"]

Probe = Callable[[int, int], object]
"""Runs a batch of so many inputs of such a length."""

_REPEATS = 2
_SHORT, _USUAL = 8, 16
"""Tokens of a few words, and of a sentence."""


def image_shapes() -> list[tuple[int, int]]:
    """Return batches of pictures to try, smallest first."""
    return [(inputs, 1) for inputs in (1, 2, 4, 8, 16, 32)]


def text_shapes(context_length: int, *, trimmed: bool) -> list[tuple[int, int]]:
    """Return batches of texts to try, smallest first; texts that are not trimmed all have the context's length."""
    if not trimmed:
        return [(inputs, context_length) for inputs in (1, 2, 4, 8, 16)]
    shapes = ((1, _SHORT), (2, _SHORT), (4, _SHORT), (8, _SHORT), (8, _USUAL), (16, _USUAL), (32, _USUAL))
    return [(inputs, min(length, context_length)) for inputs, length in shapes]


def thread_counts(cores: int) -> list[int]:
    """Return the numbers of threads to try: all cores, half, and a quarter of them."""
    return sorted({max(1, cores // part) for part in (1, 2, 4)}, reverse=True)


def measure_tower(
    open_probe: Callable[[int], Probe], threads: int, shapes: Sequence[tuple[int, int]], *, length_max: int
) -> TowerTuning:
    """Open a tower with `threads`, time it, and let it go."""
    probe = open_probe(threads)
    probe(*shapes[0])  # The first run sets memory up.
    return TowerTuning(threads, length_max, tuple(measure_shapes(probe, shapes)))


def measure_shapes(probe: Probe, shapes: Iterable[tuple[int, int]]) -> Iterable[Timing]:
    """Yield the time of each shape, and end with the first that takes longer than any batch may; two at least."""
    for number, shape in enumerate(shapes):
        timing = Timing(*shape, min(_seconds(probe, shape) for _ in range(_REPEATS)))
        yield timing
        if number and timing.seconds > BATCH_SECONDS_LONGEST:
            return


def _seconds(probe: Probe, shape: tuple[int, int]) -> float:
    started = time.perf_counter()
    probe(*shape)
    return max(time.perf_counter() - started, 1e-9)
