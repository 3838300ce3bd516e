"""What the benchmarks ask of a way to run towers; knows no runtime."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bench.towers.cases import Ids, Pixels

__all__ = ["Contender", "Embeddings", "Makers", "Work"]

Embeddings = npt.NDArray[np.float32]  # (inputs, dim), of any length
Work = Callable[[], Embeddings]


class Contender(Protocol):
    """One way to run both towers; converting inputs to the contender's own format costs it nothing."""

    @property
    def number_format(self) -> str:
        """What it computes in: `fp32`, `fp16`, `bf16` or `int8`."""
        ...

    def images(self, pixels: Pixels) -> Work:
        """Return what embeds these pictures."""
        ...

    def texts(self, ids: Ids) -> Work:
        """Return what embeds these texts."""
        ...


Makers = Mapping[str, Callable[[], Contender]]
"""Contenders by name, in the order of the table's columns."""
