"""Turns a SentencePiece model into a tokenizer of the `tokenizers` library; knows nothing of special tokens' meaning.

The file is one Protocol Buffers message (sentencepiece_model.proto), of which these fields are read:

    ModelProto        1 pieces (repeated), 2 trainer_spec, 3 normalizer_spec
    SentencePiece     1 piece, 2 score, 3 type (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte)
    TrainerSpec       3 model_type (1 unigram, 2 byte pairs), 24 treat_whitespace_as_suffix, 35 byte_fallback
    NormalizerSpec    2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces, 5 escape_whitespaces

A text is normalized as SentencePiece does it, spaces become U+2581, and the model runs over the whole of it.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from clip_search_export.errors import CheckpointError, UnsupportedError

__all__ = ["Piece", "SentencePieceModel", "build_tokenizer", "read_sentencepiece"]

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_UNIGRAM, _BYTE_PAIRS = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_PIECES_MAX = 1 << 20
_VARINT_BITS_MAX = 70


class Piece(NamedTuple):
    """One entry of the vocabulary; its id is its place."""

    text: str
    score: float
    kind: int


@dataclass
class SentencePieceModel:
    """The parts of a model that decide what it does with a text; the defaults are those of the format."""

    pieces: list[Piece] = field(default_factory=list)
    model_type: int = _UNIGRAM
    byte_fallback: bool = False
    whitespace_is_suffix: bool = False
    charsmap: bytes = b""
    dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a model file.

    Raises:
        CheckpointError: the file cannot be read or is no SentencePiece model.
    """
    model = SentencePieceModel()
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1 and isinstance(value, bytes):
                model.pieces.append(_parse_piece(value))
            elif number == 2 and isinstance(value, bytes):  # noqa: PLR2004 - numbers of the format, named above.
                _parse_trainer(value, model)
            elif number == 3 and isinstance(value, bytes):  # noqa: PLR2004 - as above.
                _parse_normalizer(value, model)
    except (OSError, ValueError, struct.error) as error:
        raise CheckpointError(f"{path} is no SentencePiece model ({error}): download or copy it again.") from error
    kinds = [piece.kind for piece in model.pieces]
    if kinds.count(_UNKNOWN) != 1 or len(kinds) > _PIECES_MAX:
        raise CheckpointError(
            f"{path} is no SentencePiece model: {len(kinds)} pieces, {kinds.count(_UNKNOWN)} unknown."
        )
    return model


def build_tokenizer(model: SentencePieceModel) -> Tokenizer:
    """Build the tokenizer that gives the model's ids, without tokens before or behind a text.

    Raises:
        UnsupportedError: the model is neither of unigrams nor of byte pairs, or marks words at their end.
        CheckpointError: the library refuses its parts.
    """
    if model.model_type not in {_UNIGRAM, _BYTE_PAIRS} or model.whitespace_is_suffix or not model.escape_whitespaces:
        raise UnsupportedError("the SentencePiece model is of a kind that is not supported; add tokenizer.json.")
    try:
        tokenizer = Tokenizer(_unigram(model) if model.model_type == _UNIGRAM else _byte_pairs(model))
        tokenizer.normalizer = normalizers.Sequence(_normalizers(model))
    except Exception as error:  # The library raises bare Exception.
        raise CheckpointError(f"the SentencePiece model does not make a tokenizer: {error}.") from error
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_tokens(
        [
            AddedToken(piece.text, normalized=False, special=piece.kind == _CONTROL)
            for piece in model.pieces
            if piece.kind in {_CONTROL, _USER_DEFINED}
        ]
    )
    return tokenizer


def _unigram(model: SentencePieceModel) -> models.Unigram:
    unknown = next(index for index, piece in enumerate(model.pieces) if piece.kind == _UNKNOWN)
    return models.Unigram(
        [(piece.text, piece.score) for piece in model.pieces], unk_id=unknown, byte_fallback=model.byte_fallback
    )


def _byte_pairs(model: SentencePieceModel) -> models.BPE:
    return models.BPE(
        vocab={piece.text: index for index, piece in enumerate(model.pieces)},
        merges=_merges(model.pieces),
        unk_token=next(piece.text for piece in model.pieces if piece.kind == _UNKNOWN),
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Return every pair of pieces that makes a third, the one with the best score first.

    The format stores scores and no merges: any two neighbours whose union is a piece may be joined.
    """
    known = {piece.text for piece in pieces if piece.kind in {_NORMAL, _USER_DEFINED}}
    ranked = sorted((piece for piece in pieces if piece.text in known), key=lambda piece: -piece.score)
    return [
        (piece.text[:cut], piece.text[cut:])
        for piece in ranked
        for cut in range(1, len(piece.text))
        if piece.text[:cut] in known and piece.text[cut:] in known
    ]


def _normalizers(model: SentencePieceModel) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    # A text that holds the sign for a space means a space.
    steps.append(normalizers.Replace(_SPACE, " "))
    if model.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    if model.dummy_prefix:
        steps.append(normalizers.Prepend(" "))
    return [*steps, normalizers.Replace(" ", _SPACE)]


def _parse_piece(message: bytes) -> Piece:
    text, score, kind = "", 0.0, _NORMAL
    for number, value in _fields(message):
        if number == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif number == 2 and isinstance(value, bytes):  # noqa: PLR2004 - as above.
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):  # noqa: PLR2004 - as above.
            kind = value
    return Piece(text, score, kind)


def _parse_trainer(message: bytes, model: SentencePieceModel) -> None:
    numbers = {number: value for number, value in _fields(message) if isinstance(value, int)}
    model.model_type = numbers.get(3, _UNIGRAM)
    model.whitespace_is_suffix = bool(numbers.get(24, False))
    model.byte_fallback = bool(numbers.get(35, False))


def _parse_normalizer(message: bytes, model: SentencePieceModel) -> None:
    fields = dict(_fields(message))
    charsmap = fields.get(2, b"")
    model.charsmap = charsmap if isinstance(charsmap, bytes) else b""
    model.dummy_prefix = bool(fields.get(3, True))
    model.remove_extra_whitespaces = bool(fields.get(4, True))
    model.escape_whitespaces = bool(fields.get(5, True))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a message: integers as such, everything else as its bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if wire == 2:  # noqa: PLR2004 - the wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
            size, at = _varint(message, at)
        elif wire in {1, 5}:
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(message):
            raise ValueError(f"a field ends behind byte {len(message)}")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the integer at `at` and where it ends: seven bits a byte, the lowest first, the eighth bit says more."""
    value = 0
    for shift in range(0, _VARINT_BITS_MAX, 7):
        if at >= len(message):
            raise ValueError(f"an integer ends behind byte {len(message)}")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the eighth bit.
            return value, at
    raise ValueError(f"an integer of more than {_VARINT_BITS_MAX} bits at byte {at}")
