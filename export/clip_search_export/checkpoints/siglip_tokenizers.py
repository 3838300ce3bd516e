"""Reads the tokenizers of SigLIP and SigLIP 2: which ids, which cleaning, which padding; knows nothing of weights.

SigLIP's comes from T5, of unigrams; its texts lose case and punctuation. SigLIP 2's is Gemma's, of byte pairs; its
texts lose case alone. Both end a text with one token, put none before it, and pad it to the context of the tower.

One thing follows the authors' own code (big_vision) rather than transformers' SiglipTokenizer: a text is cleaned before
it gets its leading space, so that `- a cat` and ` a cat` are the same text as `a cat`.
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

from tokenizers import Tokenizer, processors

from clip_search_export.checkpoints.sentencepiece import build_tokenizer, read_sentencepiece
from clip_search_export.checkpoints.tokenizers import BundleTokenizer, read_tokenizer_file
from clip_search_export.errors import CheckpointError, UnsupportedError
from clip_search_export.files.json_files import read_json
from clip_search_server.bundle import TextCleaning

__all__ = ["SiglipTokenizer", "read_siglip_tokenizer"]

_CONFIG = "tokenizer_config.json"
_MODELS = ("spiece.model", "tokenizer.model")


class _Kind(NamedTuple):
    """What one of the two tokenizer classes does beyond its file."""

    classes: tuple[str, ...]
    end: str
    pad: str
    cleaning: TextCleaning


_SIGLIP = _Kind(("SiglipTokenizer", "T5Tokenizer"), "</s>", "</s>", "strip_punctuation")
_SIGLIP2 = _Kind(("GemmaTokenizer", "Siglip2Tokenizer"), "<eos>", "<pad>", "lower")
_GENERIC: Final = ("", "PreTrainedTokenizer", "TokenizersBackend")
"""Class names that say nothing: then the spelling of the end token tells."""


class SiglipTokenizer(BundleTokenizer):
    """A tokenizer that puts an end token behind every text and nothing before it."""

    def __init__(self, tokenizer: Tokenizer, kind: _Kind, config: dict[str, Any]) -> None:
        end, pad = _special_token(config, "eos_token", kind.end), _special_token(config, "pad_token", kind.pad)
        end_id, pad_id = tokenizer.token_to_id(end), tokenizer.token_to_id(pad)
        if end_id is None or pad_id is None:
            raise CheckpointError(f"the tokenizer has no token {end if end_id is None else pad}.")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if tokenizer.encode("").ids != [end_id]:
            # Gemma's own file begins texts with a token that SigLIP 2 was not trained with.
            tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, end_id)])
        super().__init__(tokenizer, end_id)
        self.pad_token_id: int = pad_id
        self.text_cleaning: TextCleaning = kind.cleaning


def read_siglip_tokenizer(folder: Path) -> SiglipTokenizer:
    """Read the tokenizer of a checkpoint folder, converting a SentencePiece model where there is no tokenizer.json.

    Raises:
        CheckpointError: the files are missing or hold no tokenizer of SigLIP's.
        UnsupportedError: the tokenizer is of another class; names it.
    """
    tokenizer, file = _read_model(folder)
    config = read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
    try:
        return SiglipTokenizer(tokenizer, _kind_of(tokenizer, config), config)
    except UnsupportedError:
        raise
    except CheckpointError as error:
        raise CheckpointError(f"{folder / file}: {error}") from error


def _read_model(folder: Path) -> tuple[Tokenizer, str]:
    if (folder / "tokenizer.json").is_file():
        return read_tokenizer_file(folder / "tokenizer.json"), "tokenizer.json"
    for name in _MODELS:
        if (folder / name).is_file():
            return build_tokenizer(read_sentencepiece(folder / name)), name
    raise CheckpointError(
        f"{folder} has no tokenizer: add tokenizer.json, or SigLIP's spiece.model or SigLIP 2's tokenizer.model."
    )


def _kind_of(tokenizer: Tokenizer, config: dict[str, Any]) -> _Kind:
    if config.get("do_lower_case") is False:
        raise UnsupportedError(f"{_CONFIG}: do_lower_case = False is not supported.")
    name = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    for kind in (_SIGLIP, _SIGLIP2):
        if name in kind.classes:
            return kind
    if name not in _GENERIC:
        raise UnsupportedError(f"{_CONFIG}: tokenizer_class = {name!r} is not supported.")
    return _SIGLIP2 if tokenizer.token_to_id(_SIGLIP2.end) is not None else _SIGLIP


def _special_token(config: dict[str, Any], key: str, default: str) -> str:
    """Return the spelling of a special token, which a configuration gives as such or as an object."""
    value = config.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else default
