"""Runs a tower in FP32 and notes what enters each of its products; knows nothing of what is done with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from clip_search_export.graph import PROBE
from clip_search_export.parity import open_session

__all__ = ["Feed", "SiteSamples", "calibrate"]

Feed = Mapping[str, npt.NDArray[Any]]

_ROWS_MAX: Final = 256
_SEED = 0


@dataclass(frozen=True)
class SiteSamples:
    """What was seen at one place of a graph.

    Tokens of a transformer are rows of channels; the places of a feature map likewise.
    """

    low: npt.NDArray[np.floating]  # (channels,), the smallest value of each
    high: npt.NDArray[np.floating]  # (channels,), the largest
    rows: npt.NDArray[np.floating]  # (rows, channels), some of what was seen

    def divided(self, divisors: npt.NDArray[np.floating]) -> "SiteSamples":
        """Return what would have been seen with each channel divided by one of `divisors` (channels,), all positive."""
        return SiteSamples(self.low / divisors, self.high / divisors, self.rows / divisors)


def calibrate(path: Path, feeds: Sequence[Feed]) -> dict[str, SiteSamples]:
    """Run the graph at `path`, authored for probing, and return the samples of every place by its name.

    Args:
        path: the graph.
        feeds: what to run it on, one batch after another.
    """
    session = open_session(path)
    names = [output.name for output in session.get_outputs() if output.name.startswith(PROBE)]
    rows_each = max(1, _ROWS_MAX // len(feeds))
    random = np.random.default_rng(_SEED)
    seen: dict[str, list[SiteSamples]] = {name: [] for name in names}
    for feed in feeds:
        for name, value in zip(names, session.run(names, dict(feed)), strict=True):
            rows = _as_rows(value)
            kept = random.integers(len(rows), size=min(rows_each, len(rows)))
            seen[name].append(SiteSamples(rows.min(axis=0), rows.max(axis=0), rows[kept]))
    return {name.removeprefix(PROBE): _join(parts) for name, parts in seen.items()}


def _as_rows(value: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return (..., channels), or (batch, channels, height, width), as (rows, channels)."""
    feature_map = 4
    channels_last = np.moveaxis(value, 1, -1) if value.ndim == feature_map else value
    return channels_last.reshape(-1, channels_last.shape[-1])


def _join(parts: list[SiteSamples]) -> SiteSamples:
    return SiteSamples(
        low=np.min([part.low for part in parts], axis=0),
        high=np.max([part.high for part in parts], axis=0),
        rows=np.concatenate([part.rows for part in parts]),
    )
