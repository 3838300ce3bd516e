"""Tokenizers of true kinds and vocabularies of single letters, for checkpoints with random weights; knows no models."""

import string

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

__all__ = ["CLIP_VOCABULARY", "SIGLIP_END", "clip_tokenizer", "siglip_tokenizer"]

CLIP_VOCABULARY = 49_408
"""Ids of the released models; the start and the end token are the last two."""
SIGLIP_END = 1
"""What ends a text and fills it up."""
_START, _END = "<|startoftext|>", "<|endoftext|>"
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def clip_tokenizer(size: int = CLIP_VOCABULARY) -> Tokenizer:
    """Return a tokenizer in CLIP's form whose words are single bytes; unused ids fill its vocabulary up to `size`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += [f"<unused_{number}>" for number in range(size - 2 - len(words))]
    vocabulary = {word: number for number, word in enumerate([*words, _START, _END])}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [], unk_token=_END, end_of_word_suffix="</w>", continuing_subword_prefix="")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        (_END, size - 1), (_START, size - 2), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.add_special_tokens([_START, _END])
    return tokenizer


def siglip_tokenizer() -> Tokenizer:
    """Return a tokenizer of unigrams, as SigLIP's is, whose pieces are letters and digits."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -100.0), (_SPACE, -4.0)]
    pieces += [(letter, -5.0) for letter in string.ascii_lowercase + string.digits]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always", split=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", SIGLIP_END)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<pad>", "</s>", "<unk>")])
    return tokenizer
