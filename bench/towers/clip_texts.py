"""What CLIP checkpoints share whatever their picture tower is: texts, the tower that reads them, the scale of pixels.

Knows nothing of picture towers, nor of how a checkpoint is written.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from bench.towers.loads import Load, linear, transformer
from bench.towers.random_tokenizers import CLIP_VOCABULARY

__all__ = ["CLIP_MEAN", "CLIP_STD", "HEAD_WIDTH", "ClipTexts"]

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTexts(ABC):
    """Those members of a `Model` that do not depend on its picture tower; the defaults are ViT-B/32's and RN50's."""

    text_width: int = 512
    text_layers: int = 12
    context: int = 77
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    text_lengths: tuple[int, ...] = (5, 8, 12, 30, 77)
    vocabulary: int = CLIP_VOCABULARY

    @property
    @abstractmethod
    def embedding_dim(self) -> int:
        """Length of an embedding."""

    @property
    def words(self) -> range:
        """The token ids that are no special tokens."""
        return range(self.vocabulary - 2)

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What every text begins with."""
        return (self.vocabulary - 2,)

    @property
    def end_id(self) -> int:
        """The end token, whose output is pooled."""
        return self.vocabulary - 1

    def text_load(self, tokens: int) -> Load:
        """Return the load of one text of `tokens` tokens."""
        blocks = transformer(tokens, self.text_width, 4 * self.text_width, self.text_layers)
        return blocks + linear(1, self.text_width, self.embedding_dim)
