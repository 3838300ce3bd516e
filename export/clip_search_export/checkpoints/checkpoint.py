"""What a checkpoint reader returns: both towers and every setting that decides what a vector means."""

from dataclasses import dataclass

from clip_search_export.weights import ImageTower, SiglipTextTransformer, TextTower
from clip_search_server.bundle import ImagePreprocessing, TextCleaning, TextPooling

__all__ = ["Checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """A model, whatever the layout it came in."""

    architecture: str
    """A readable name for the manifest, such as `CLIP ViT (Hugging Face)`."""
    image: ImageTower
    text: TextTower
    logit_scale: float
    """The factor of the cosine, already exponentiated."""
    preprocessing: ImagePreprocessing
    tokenizer_json: str
    text_cleaning: TextCleaning
    text_pooling: TextPooling
    end_token_id: int
    pad_token_id: int
    logit_bias: float | None = None
    """What is added behind the factor before a sigmoid; None for models that are scored with a softmax."""

    @property
    def trim_padding(self) -> bool:
        """Whether a text may be run at its own length: its tower is causal and pooled before the padding."""
        return not isinstance(self.text, SiglipTextTransformer)

    @property
    def context_length(self) -> int:
        """The most tokens of a text."""
        return len(self.text.positions)

    @property
    def embedding_dim(self) -> int:
        """The length of an embedding."""
        if isinstance(self.text, SiglipTextTransformer):
            return len(self.text.head.bias)
        return int(self.text.projection.shape[1])
