"""What a checkpoint reader returns: both towers and every setting that decides what a vector means."""

from dataclasses import dataclass

from clip_search_export.weights import ImageTower, SiglipTextTransformer, TextTower
from clip_search_server.bundle import (
    ExporterRecord,
    ImagePreprocessing,
    Manifest,
    ModelRecord,
    TextCleaning,
    TextPooling,
)

__all__ = ["TOKENIZER_FILE", "Checkpoint"]

TOKENIZER_FILE = "tokenizer.json"
"""The name of the tokenizer in a bundle."""


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

    def describe(self) -> Manifest:
        """Return the manifest as far as the checkpoint says it; what only an export knows is left blank."""
        return Manifest(
            model=ModelRecord(source="", revision=None, architecture=self.architecture, licence=None),
            embedding_dim=self.embedding_dim,
            logit_scale=self.logit_scale,
            logit_bias=self.logit_bias,
            context_length=self.context_length,
            trim_padding=self.trim_padding,
            text_cleaning=self.text_cleaning,
            text_pooling=self.text_pooling,
            end_token_id=self.end_token_id,
            pad_token_id=self.pad_token_id,
            image_preprocessing=self.preprocessing,
            tokenizer=TOKENIZER_FILE,
            variants={},
            files={},
            parity={},
            space_id="",
            exporter=ExporterRecord(name="", versions={}),
        )
