"""What a checkpoint reader returns: both towers and every setting that decides what a vector means."""

from dataclasses import dataclass

from clip_search_export.weights import ImageTower, TextTransformer
from clip_search_server.bundle import ImagePreprocessing, TextCleaning, TextPooling

__all__ = ["Checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """A model, whatever the layout it came in."""

    architecture: str
    """A readable name for the manifest, such as `CLIP ViT (Hugging Face)`."""
    image: ImageTower
    text: TextTransformer
    logit_scale: float
    """The factor of the cosine, already exponentiated."""
    preprocessing: ImagePreprocessing
    tokenizer_json: str
    text_cleaning: TextCleaning
    text_pooling: TextPooling
    end_token_id: int
    pad_token_id: int
