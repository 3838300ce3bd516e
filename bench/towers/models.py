"""The models that the benchmarks measure: released shapes, random weights; knows nothing of how they are run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from bench.towers.loads import Load
from bench.towers.random_resnet import ClipResNet
from bench.towers.random_siglip import Siglip
from bench.towers.random_vit import ClipVit
from bench.towers.random_weights import Tensor

__all__ = ["MODELS", "Model"]


class Model(Protocol):
    """What the benchmarks must know of a checkpoint."""

    @property
    def image_size(self) -> int:
        """Edge of the pictures in pixels."""
        ...

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of pixels scaled to 0..1."""
        ...

    @property
    def std(self) -> tuple[float, float, float]:
        """Deviation of pixels scaled to 0..1."""
        ...

    @property
    def context(self) -> int:
        """Most tokens of a text."""
        ...

    @property
    def text_lengths(self) -> tuple[int, ...]:
        """Tokens of the texts to measure."""
        ...

    @property
    def words(self) -> range:
        """The token ids that are no special tokens."""
        ...

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What every text begins with."""
        ...

    @property
    def end_id(self) -> int:
        """What every text ends with."""
        ...

    @property
    def pad_id(self) -> int:
        """What the model's own tokenizer fills texts up with."""
        ...

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding."""
        ...

    def image_load(self) -> Load:
        """Return the load of one picture."""
        ...

    def text_load(self, tokens: int) -> Load:
        """Return the load of one text."""
        ...

    def tensors(self) -> list[Tensor]:
        """Return all parameters."""
        ...

    def write(self, folder: Path) -> Path:
        """Write a checkpoint into `folder` once, and return it."""
        ...


MODELS: Mapping[str, Model] = {
    "vit-b-32": ClipVit(),
    "vit-l-14": ClipVit(patch=14, width=1024, layers=24, text_width=768),
    "rn50": ClipResNet(),
    "siglip-b-16": Siglip(),
}
