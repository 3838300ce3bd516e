"""SentencePiece models: what a converted one does with a text, and files that are none."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from clip_search_export.checkpoints.sentencepiece import build_tokenizer, read_sentencepiece
from clip_search_export.errors import CheckpointError, UnsupportedError
from tests.unit.export.random_siglip import write_byte_pair_model, write_sentencepiece, write_unigram_model

PIECES = [("<unk>", 0.0, 2), ("▁", -3.0, 1), ("a", -2.0, 1), ("b", -2.5, 1), ("ab", -3.5, 1), ("▁a", -9.0, 1)]


def _tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    return list(tokenizer.encode(text).tokens)


@pytest.fixture
def unigrams(tmp_path: Path) -> Path:
    """A model of T5's kind."""
    write_unigram_model(tmp_path / "spiece.model")
    return tmp_path / "spiece.model"


@pytest.fixture
def byte_pairs(tmp_path: Path) -> Path:
    """A model of Gemma's kind."""
    write_byte_pair_model(tmp_path / "tokenizer.model")
    return tmp_path / "tokenizer.model"


def _build(path: Path, **changes: Any) -> Tokenizer:
    trainer = {3: 1, **changes.get("trainer", {})}
    write_sentencepiece(path, changes.get("pieces", PIECES), trainer=trainer, normalizer=changes.get("normalizer", {}))
    return build_tokenizer(read_sentencepiece(path))


def test_the_best_scores_make_the_pieces(tmp_path: Path) -> None:
    """Unigrams are cut so that their scores add up to the most, over word borders too."""
    tokenizer = _build(tmp_path / "model")
    assert _tokens(tokenizer, "ab") == ["▁", "ab"]
    assert _tokens(tokenizer, "a b") == ["▁", "a", "▁", "b"]
    likely = [*PIECES[:-1], ("▁a", -4.0, 1)]
    assert _tokens(_build(tmp_path / "model", pieces=likely), "a b") == ["▁a", "▁", "b"]


def test_white_space_is_one_sign_before_a_word(unigrams: Path) -> None:
    """A leading space is added, extra ones are removed, and the sign for a space means one."""
    tokenizer = build_tokenizer(read_sentencepiece(unigrams))
    expected = ["▁a", "▁red", "▁bicycle"]
    for text in ("a red bicycle", "  a  red   bicycle ", "▁a red▁▁bicycle"):
        assert _tokens(tokenizer, text) == expected
    assert _tokens(tokenizer, "") == _tokens(tokenizer, "   ") == []


def test_white_space_is_kept_where_the_model_keeps_it(byte_pairs: Path) -> None:
    """Without a dummy prefix the first word has no sign before it, and every space counts."""
    tokenizer = build_tokenizer(read_sentencepiece(byte_pairs))
    assert _tokens(tokenizer, "x red") == ["<0x78>", "▁red"]
    assert _tokens(tokenizer, "x  red") == ["<0x78>", "▁", "▁red"]


def test_neighbours_with_the_best_union_are_joined_first(tmp_path: Path) -> None:
    """Byte pairs are joined by the score of what they make, not by place."""
    scored = [("<unk>", 0.0, 2), *((letter, -9.0, 1) for letter in "abc"), ("bc", -1.0, 1), ("ab", -2.0, 1)]
    fields = {"trainer": {3: 2}, "normalizer": {3: 0}}
    assert _tokens(_build(tmp_path / "model", pieces=scored, **fields), "abc") == ["a", "bc"]
    turned = [*scored[:4], ("bc", -2.0, 1), ("ab", -1.0, 1)]
    assert _tokens(_build(tmp_path / "model", pieces=turned, **fields), "abc") == ["ab", "c"]


def test_what_is_not_known_becomes_bytes_or_one_sign(unigrams: Path, byte_pairs: Path) -> None:
    """Unknown characters in a row are one unknown token, or their bytes where the model has them."""
    assert _tokens(build_tokenizer(read_sentencepiece(unigrams)), "猫猫")[1:] == ["猫猫"]
    assert build_tokenizer(read_sentencepiece(unigrams)).encode("猫猫").ids[1:] == [2]
    assert _tokens(build_tokenizer(read_sentencepiece(byte_pairs)), "猫") == ["<0xE7>", "<0x8C>", "<0xAB>"]


def test_decoding_gives_the_text_back(unigrams: Path, byte_pairs: Path) -> None:
    """Ids decode to the text, bytes included."""
    for path, text in ((unigrams, "a red bicycle"), (byte_pairs, "seven 猫 gulls!")):
        tokenizer = build_tokenizer(read_sentencepiece(path))
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_control_piece_is_a_special_token(unigrams: Path) -> None:
    """Pieces of control have ids of their own and are left out where special tokens are skipped."""
    tokenizer = build_tokenizer(read_sentencepiece(unigrams))
    assert tokenizer.encode("a</s>").ids[-1] == 1
    assert "</s>" not in tokenizer.decode(tokenizer.encode("a</s>").ids)


@pytest.mark.parametrize("changes", [{"trainer": {3: 3}}, {"trainer": {24: 1}}, {"normalizer": {5: 0}}])
def test_a_model_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Models of words, with white space as a suffix or without a sign for it are refused."""
    with pytest.raises(UnsupportedError, match=r"kind that is not supported; add tokenizer\.json"):
        _build(tmp_path / "model", **changes)


def test_a_damaged_character_map_is_refused(tmp_path: Path) -> None:
    """A map of characters that the library cannot read is an error of the checkpoint."""
    with pytest.raises(CheckpointError, match="does not make a tokenizer"):
        _build(tmp_path / "model", normalizer={2: b"\xff\xff\xff\x7f no map"})


@pytest.mark.parametrize(
    "content",
    [b"", b"not a model", b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 20, b"\x0b", b"\x0a\x03\x0a\x01\xff"],
    ids=["empty", "text", "cut", "beyond the end", "endless integer", "group", "no UTF-8"],
)
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    """A file that is cut, foreign or malformed is refused by its name."""
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"spiece\.model is no SentencePiece model"):
        read_sentencepiece(tmp_path / "spiece.model")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_an_error_of_the_checkpoint(unigrams: Path, data: st.DataObject) -> None:
    """Whatever bytes of a model are changed or cut off, it is read or refused, and nothing else happens."""
    content = bytearray(unigrams.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    damaged = unigrams.with_name("damaged.model")
    damaged.write_bytes(content[: data.draw(st.integers(at, len(content)))])
    with contextlib.suppress(CheckpointError):
        build_tokenizer(read_sentencepiece(damaged))
