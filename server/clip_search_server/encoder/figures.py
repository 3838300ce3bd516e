"""What a model's stages tell of their work; knows nothing of who reads it.

Written on the event loop alone, see `observation.py`; what threads measure they hand back with their results.
"""

from dataclasses import dataclass, field

from clip_search_server.observation import SIZES, Counter, Histogram

__all__ = ["BatchFigures", "DecodeFigures"]


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """One tower's batches.

    Attributes:
        sizes: inputs in each batch that ran.
        wait_seconds: how long each input waited for its batch.
        run_seconds: how long each batch took that succeeded, from its leaving the event loop to its return.
        units: units of work that were computed, padding included: tokens of texts, pictures.
        padding_units: those of them that stood for nothing.
        failures: batches that failed.
    """

    sizes: Histogram = field(default_factory=lambda: Histogram(SIZES))
    wait_seconds: Histogram = field(default_factory=Histogram)
    run_seconds: Histogram = field(default_factory=Histogram)
    units: Counter = field(default_factory=Counter)
    padding_units: Counter = field(default_factory=Counter)
    failures: Counter = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class DecodeFigures:
    """Pictures on their way to the tower.

    Attributes:
        wait_seconds: how long each waited for a thread.
        run_seconds: how long decoding, scaling and the thumbnail took, of those that are pictures.
        refused: those that are not, or are too large.
    """

    wait_seconds: Histogram = field(default_factory=Histogram)
    run_seconds: Histogram = field(default_factory=Histogram)
    refused: Counter = field(default_factory=Counter)
