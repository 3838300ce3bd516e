"""Brings the tokenizer of a checkpoint into the one form of a bundle: a `tokenizer.json`; knows nothing of weights.

CLIP's byte-pair tokenizer may come as that file or as its older parts, `vocab.json` and `merges.txt`.
"""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from clip_search_export.errors import CheckpointError
from clip_search_export.files.json_files import read_json

__all__ = ["TOKENIZER_FILES", "BundleTokenizer", "ClipTokenizer", "read_clip_tokenizer", "read_tokenizer_file"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""The files of any family's tokenizer."""

_SPECIAL_PAIRS = (("<|startoftext|>", "<|endoftext|>"), ("<start_of_text>", "<end_of_text>"))
"""The spellings of the start and end tokens: Hugging Face's and OpenCLIP's."""

_WORD_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
"""How CLIP's tokenizer cuts text into words (openai/CLIP, simple_tokenizer.py)."""


class BundleTokenizer:
    """A tokenizer as a bundle holds it: it adds its special tokens, and neither pads nor truncates."""

    def __init__(self, tokenizer: Tokenizer, end_token_id: int) -> None:
        """Take a finished tokenizer.

        Raises:
            CheckpointError: it cannot encode every text.
        """
        _check_any_text(tokenizer)
        self._tokenizer = tokenizer
        self.end_token_id = end_token_id

    def check_fits(self, vocab_size: int) -> None:
        """Refuse a text tower whose vocabulary lacks ids of this tokenizer.

        Raises:
            CheckpointError: says both sizes.
        """
        tokens = max(self._tokenizer.get_vocab().values()) + 1
        if tokens > vocab_size:
            raise CheckpointError(f"the tokenizer has {tokens} tokens, the text tower only {vocab_size}.")

    def folds_case(self) -> bool:
        """Return whether capitals make no difference."""
        upper, lower = (self._tokenizer.encode(text).ids for text in ("A CAT", "a cat"))
        return bool(upper == lower)

    def to_json(self) -> str:
        """Return the file's content; equal tokenizers give equal text."""
        return json.dumps(json.loads(self._tokenizer.to_str()), ensure_ascii=False, sort_keys=True) + "\n"


class ClipTokenizer(BundleTokenizer):
    """A tokenizer that puts a start token before every text and an end token behind it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        for start, end in _SPECIAL_PAIRS:
            start_id, end_id = tokenizer.token_to_id(start), tokenizer.token_to_id(end)
            if start_id is not None and end_id is not None:
                break
        else:
            raise CheckpointError(f"the tokenizer has none of the pairs of special tokens {_SPECIAL_PAIRS}.")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if tokenizer.encode("").ids != [start_id, end_id]:
            # Files trained with the library alone often leave the special tokens to the caller.
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{start} $A {end}", special_tokens=[(start, start_id), (end, end_id)]
            )
        super().__init__(tokenizer, end_id)


def _check_any_text(tokenizer: Tokenizer) -> None:
    try:
        tokenizer.encode("any \N{SLICE OF PIZZA} text, é.")
    except BaseException as error:
        # The library raises bare Exception, and where it panics, what is not even that.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"the tokenizer cannot encode every text: {error}.") from error


def read_clip_tokenizer(folder: Path) -> ClipTokenizer:
    """Read the tokenizer of a checkpoint folder.

    Raises:
        CheckpointError: the files are missing or hold no tokenizer of CLIP.
    """
    if (folder / "tokenizer.json").is_file():
        tokenizer = read_tokenizer_file(folder / "tokenizer.json")
        try:
            return ClipTokenizer(tokenizer)
        except CheckpointError as error:
            raise CheckpointError(f"{folder / 'tokenizer.json'}: {error}") from error
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return ClipTokenizer(_build_from_parts(folder))
    raise CheckpointError(
        f"{folder} has no tokenizer: add tokenizer.json, or vocab.json and merges.txt. Most CLIP models share theirs "
        "with openai/clip-vit-base-patch32, whose files can be copied."
    )


def read_tokenizer_file(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        CheckpointError: it is no tokenizer file.
    """
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises bare Exception.
        raise CheckpointError(f"{path} is no tokenizer file: {error}.") from error


def _build_from_parts(folder: Path) -> Tokenizer:
    """Build what transformers builds from the same two files."""
    vocabulary = read_json(folder / "vocab.json")
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines[1:]) if right]
    start, end = _SPECIAL_PAIRS[0]
    try:
        model = models.BPE(
            vocab=vocabulary, merges=merges, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=end
        )
        start_id, end_id = vocabulary[start], vocabulary[end]
    except Exception as error:  # The library raises bare Exception.
        raise CheckpointError(f"{folder}: vocab.json and merges.txt do not make a tokenizer: {error}.") from error
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, end_id), (start, start_id), add_prefix_space=False, trim_offsets=False
    )
    tokenizer.add_special_tokens([start, end])
    return tokenizer
