"""Reads how a traced model is fed: tokenizer, pooled token, pixels; knows nothing of graphs or of PyTorch.

CLIP and SigLIP are read as for the native exporter, whose bundles then share their space. Other families take the
tokenizer that transformers builds of their files (of BERT's `vocab.txt`, say), which needs no further cleaning. The
pooled token is found inside a traced graph; the bundle's `end` only tells a text from its padding.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from clip_search_export.checkpoints import hf_clip, hf_siglip
from clip_search_export.checkpoints.hf_preprocessing import read_preprocessing, read_processor_class
from clip_search_export.checkpoints.siglip_tokenizers import read_siglip_tokenizer
from clip_search_export.checkpoints.tokenizers import BundleTokenizer, read_clip_tokenizer
from clip_search_export.errors import CheckpointError, UnsupportedError
from clip_search_server.bundle import ImagePreprocessing, TextCleaning, TextPooling

__all__ = ["FastTokenizer", "TextSettings", "derive_texts", "read_images", "read_texts"]

_PROCESSORS: Mapping[str, Mapping[str, Any]] = {
    "CLIP": hf_clip.IMAGE_PROCESSOR_DEFAULTS,
    "ChineseCLIP": hf_clip.IMAGE_PROCESSOR_DEFAULTS,
    "Siglip": hf_siglip.IMAGE_PROCESSOR_DEFAULTS,
}


class FastTokenizer(NamedTuple):
    """A tokenizer as transformers loads it, in the form of the `tokenizers` library."""

    json: str
    empty_ids: Sequence[int]
    """The ids of the empty text: the special tokens alone."""
    pad_token_id: int | None
    context_length: int
    """The most tokens that it is made for, which may be more than any tower takes."""


class TextSettings(NamedTuple):
    """What decides which ids a text becomes, and how it is padded."""

    tokenizer: BundleTokenizer
    cleaning: TextCleaning
    pooling: TextPooling
    pad_token_id: int
    context_length: int


def read_texts(folder: Path, model_type: str, context_length: int, end_token_id: int | None) -> TextSettings | None:
    """Read how texts are fed to CLIP and SigLIP; None for other families.

    Args:
        folder: the checkpoint.
        model_type: its family.
        context_length: the most tokens for which the tower has positions.
        end_token_id: what the configuration says of the token at which the tower pools.

    Raises:
        CheckpointError: the tokenizer is missing or damaged.
    """
    if model_type == "clip":
        clip = read_clip_tokenizer(folder)
        legacy = end_token_id == hf_clip.LEGACY_EOS_TOKEN_ID
        return TextSettings(clip, "none", "highest_id" if legacy else "end_token", clip.end_token_id, context_length)
    if model_type == "siglip":
        siglip = read_siglip_tokenizer(folder)
        return TextSettings(siglip, siglip.text_cleaning, "last", siglip.pad_token_id, context_length)
    return None


def derive_texts(loaded: FastTokenizer, context_length: int) -> TextSettings:
    """Return how texts are fed to a family that is not known: as its tokenizer does it all by itself.

    Raises:
        CheckpointError: it ends texts with no token of its own, or has none for padding.
    """
    tokenizer = Tokenizer.from_str(loaded.json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    special = list(loaded.empty_ids)
    if not special or tokenizer.encode("").ids != special:
        raise CheckpointError("the tokenizer does not end texts with a token, so that they cannot be truncated.")
    if loaded.pad_token_id is None:
        raise CheckpointError("the tokenizer has no token for padding.")
    return TextSettings(
        BundleTokenizer(tokenizer, special[-1]),
        "none",
        "end_token",
        loaded.pad_token_id,
        min(context_length, loaded.context_length),
    )


def read_images(folder: Path, model_type: str, image_size: int) -> ImagePreprocessing:
    """Read how pictures become the squares of `image_size` that the tower reads.

    Raises:
        UnsupportedError: the image processor is of another class, or has a setting that is not reproduced; names it.
        CheckpointError: the file is missing or damaged.
    """
    name = read_processor_class(folder) or ("Siglip" if model_type == "siglip" else "CLIP")
    if name not in _PROCESSORS:
        raise UnsupportedError(f"the image processor of {name} is not supported; known are {', '.join(_PROCESSORS)}.")
    return read_preprocessing(folder, image_size, _PROCESSORS[name])
