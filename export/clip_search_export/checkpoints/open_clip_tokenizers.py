"""Reads how OpenCLIP's text tower is fed: tokenizer, cleaning, pooled token; knows nothing of weights.

open_clip has two tokenizers: its own copy of CLIP's, and, where `hf_tokenizer_name` is set, one of Hugging Face's. Here
both come from the files in the folder, and both must be CLIP's byte-pair tokenizer.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from clip_search_export.checkpoints.settings import Settings
from clip_search_export.checkpoints.tokenizers import ClipTokenizer, read_clip_tokenizer
from clip_search_export.errors import CheckpointError, UnsupportedError
from clip_search_server.bundle import TextCleaning, TextPooling

__all__ = ["TextSettings", "read_text_settings"]

_CLEANINGS: Mapping[str, TextCleaning] = {"lower": "basic", "whitespace": "whitespace", "canonicalize": "canonicalize"}
_OWN_CLEANING, _HF_CLEANING = "lower", "whitespace"
"""What open_clip's own tokenizer and its wrapper of others do where `tokenizer_kwargs` says nothing."""


class TextSettings(NamedTuple):
    """What decides which token ids a text becomes, and which of them is pooled."""

    tokenizer: ClipTokenizer
    cleaning: TextCleaning
    pooling: TextPooling


def read_text_settings(folder: Path, config: Settings) -> TextSettings:
    """Read what `text_cfg` and the tokenizer's files say.

    Raises:
        UnsupportedError: the tokenizer is another than CLIP's, or an option of it is not known; names it.
        CheckpointError: the tokenizer's files are missing, damaged or do not fit the tower.
    """
    name = config.get("hf_tokenizer_name") or None
    tokenizer = _read_tokenizer(folder, name, config)
    tokenizer.check_fits(config.size("vocab_size"))
    cleaning = _read_cleaning(config, _HF_CLEANING if name else _OWN_CLEANING)
    if cleaning == "whitespace" and not name and tokenizer.folds_case():
        raise UnsupportedError(
            f"{config.where}: tokenizer_kwargs keeps capitals (clean = 'whitespace'), which tokenizer.json folds."
        )
    return TextSettings(tokenizer, cleaning, _read_pooling(config, tokenizer.end_token_id))


def _read_tokenizer(folder: Path, name: object, config: Settings) -> ClipTokenizer:
    try:
        return read_clip_tokenizer(folder)
    except CheckpointError as error:
        if name is None or not (folder / "tokenizer.json").is_file():
            raise
        raise UnsupportedError(
            f"{config.where}: hf_tokenizer_name = {name!r} is not supported unless it is CLIP's tokenizer ({error})"
        ) from error


def _read_cleaning(config: Settings, default: str) -> TextCleaning:
    where = f"{config.where}: tokenizer_kwargs"
    options = config.nested("tokenizer_kwargs") if config.get("tokenizer_kwargs") else Settings({}, where)
    for key in options:
        if key != "clean":
            raise UnsupportedError(f"{where}: {key} = {options.get(key)!r} is not supported.")
    options.refuse_unless("clean", *_CLEANINGS)
    return _CLEANINGS[options.get("clean") or default]


def _read_pooling(config: Settings, end_token_id: int) -> TextPooling:
    config.refuse_unless("pool_type", "argmax", "eos")
    if config.get("pool_type") == "argmax":
        return "highest_id"
    config.refuse_unless("eos_id", end_token_id)
    return "end_token"
