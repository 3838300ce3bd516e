"""Tokenizing: start and end tokens, truncation, padding, cleaning, and where the pooled token is."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from clip_search_server.bundle import TextCleaning
from clip_search_server.encoder.text_cleaning import clean_text
from clip_search_server.encoder.tokens import Tokenizer
from clip_search_server.errors import BundleError
from tests.unit.export.random_checkpoints import write_tokenizer
from tests.unit.server.test_bundle import MANIFEST

CONTEXT_LENGTH = 10


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small byte-pair tokenizer of CLIP's kind."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tokenizer(path, vocab_size=600)
    return path.read_text()


def _tokenizer(tokenizer_json: str, **changes: object) -> Tokenizer:
    settings = {"context_length": CONTEXT_LENGTH, "end_token_id": 599, "text_cleaning": "none", **changes}
    return Tokenizer(tokenizer_json, dataclasses.replace(MANIFEST, **settings))  # type: ignore[arg-type]


def test_an_empty_text_has_a_start_and_an_end(tokenizer_json: str) -> None:
    """The empty text is valid: start token, end token, pooled at the end."""
    tokens = _tokenizer(tokenizer_json).encode("")
    assert tokens.ids.tolist() == [598, 599]
    assert tokens.end == 1


def test_a_text_is_as_long_as_its_tokens(tokenizer_json: str) -> None:
    """Where padding is trimmed, ids hold the text's own tokens and the pooled one is the last."""
    tokens = _tokenizer(tokenizer_json).encode("a red bicycle")
    assert len(tokens.ids) < CONTEXT_LENGTH
    assert tokens.ids[tokens.end] == 599
    assert tokens.end == len(tokens.ids) - 1


def test_a_long_text_is_cut_and_keeps_its_end(tokenizer_json: str) -> None:
    """A text longer than the context keeps its first tokens and ends with the end token."""
    long = _tokenizer(tokenizer_json, context_length=1000).encode("gulls " * 50)
    cut = _tokenizer(tokenizer_json).encode("gulls " * 50)
    assert cut.ids.tolist() == [*long.ids[: CONTEXT_LENGTH - 1], 599]
    assert cut.end == CONTEXT_LENGTH - 1


def test_a_text_that_just_fits_is_not_cut(tokenizer_json: str) -> None:
    """A text of exactly the context's length keeps every token."""
    whole = _tokenizer(tokenizer_json, context_length=1000).encode("a a a a a a a a")
    assert len(whole.ids) == CONTEXT_LENGTH
    assert _tokenizer(tokenizer_json).encode("a a a a a a a a").ids.tolist() == whole.ids.tolist()


def test_ids_are_padded_where_the_tower_needs_it(tokenizer_json: str) -> None:
    """Without trimming, ids are filled to the context with the pad token; the pooled position stays."""
    trimmed = _tokenizer(tokenizer_json).encode("a chip")
    padded = _tokenizer(tokenizer_json, trim_padding=False, pad_token_id=7).encode("a chip")
    assert padded.ids.tolist() == [*trimmed.ids, *[7] * (CONTEXT_LENGTH - len(trimmed.ids))]
    assert padded.end == trimmed.end


def test_an_end_token_spelled_in_the_text_is_the_pooled_one(tokenizer_json: str) -> None:
    """As in the reference, the first end token is pooled, even if the text itself spells it."""
    for pooling in ("end_token", "highest_id"):
        tokens = _tokenizer(tokenizer_json, text_pooling=pooling).encode("a<|endoftext|>chip")
        assert tokens.ids[tokens.end] == 599
        assert tokens.end < len(tokens.ids) - 1


def test_the_highest_id_may_be_another_token_than_the_end(tokenizer_json: str) -> None:
    """Pooling by the highest id follows ids, not names, as the configurations that ask for it do."""
    library = Library.from_str(tokenizer_json)
    library.add_special_tokens(["<extra>"])
    text = "a <extra> chip"
    highest = _tokenizer(library.to_str(), text_pooling="highest_id").encode(text)
    assert highest.ids[highest.end] == 600
    first_end = _tokenizer(library.to_str(), text_pooling="end_token").encode(text)
    assert first_end.end == len(first_end.ids) - 1


def test_the_last_token_may_be_the_pooled_one(tokenizer_json: str) -> None:
    """Towers that see their padding are pooled at the end of the context, whatever the text's length."""
    tokenizer = _tokenizer(tokenizer_json, text_pooling="last", trim_padding=False, pad_token_id=7)
    for text in ("", "a chip", "gulls " * 50):
        tokens = tokenizer.encode(text)
        assert len(tokens.ids) == CONTEXT_LENGTH
        assert tokens.end == CONTEXT_LENGTH - 1


@pytest.mark.parametrize(
    ("cleaning", "cleaned"),
    [
        ("none", " A_b, “C”!\t42% "),
        ("lower", " a_b, “c”!\t42% "),
        ("whitespace", 'A_b, "C"! 42%'),
        ("basic", 'a_b, "c"! 42%'),
        ("strip_punctuation", "ab “c” 42"),
        ("canonicalize", "a b c 42"),
    ],
)
def test_each_cleaning_is_its_references(cleaning: TextCleaning, cleaned: str) -> None:
    """White space, case, ASCII punctuation and underscores are treated as each reference treats them."""
    assert clean_text(" A_b, “C”!\t42% ", cleaning) == cleaned


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("don\u2019t \u201cgo\u201d", 'don\'t "go"'),
        ("\ufb01re, \ufb06ar, \u01c9", "fire, star, lj"),
        ("\uff26\uff35\uff2c\uff2c\u3000\uff76\uff9e", "full ガ"),
        ("Tom &amp; Jerry &lt;b&gt; &amp;amp; P&eacute;rez", "tom & jerry <b> & pérez"),
        ("a\x00b\x0bc\ufeffd\x7f", "abcd"),
        ("e\u0301", "\u00e9"),
        ("½ № Ⅷ ² ﷺ", "½ № ⅷ ² ﷺ"),
    ],
)
def test_typography_is_tidied(text: str, tidied: str) -> None:
    """Quotes, ligatures, widths, entities and control characters are treated as CLIP's own tokenizer treats them."""
    assert clean_text(text, "basic") == tidied
    assert clean_text(text, "lower") == text.lower()


def test_basic_cleaning_folds_case_and_white_space(tokenizer_json: str) -> None:
    """With basic cleaning, case and white space make no difference."""
    tokenizer = _tokenizer(tokenizer_json, text_cleaning="basic")
    assert tokenizer.encode("  A\t RED\n\nchip ").ids.tolist() == tokenizer.encode("a red chip").ids.tolist()
    assert clean_text("  A\t RED ", "none") == "  A\t RED "


@given(text=st.text(max_size=200))
def test_any_text_gives_ids_within_the_context(tokenizer_json: str, text: str) -> None:
    """Whatever the text, ids start with the start token, fit the context, and contain the pooled end token."""
    tokens = _tokenizer(tokenizer_json).encode(text)
    assert tokens.ids[0] == 598
    assert 2 <= len(tokens.ids) <= CONTEXT_LENGTH
    assert tokens.ids[tokens.end] == 599


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_a_foreign_tokenizer_file_is_a_bundle_error(content: str) -> None:
    """A file that is no tokenizer is reported by its name."""
    with pytest.raises(BundleError, match=r"tokenizer\.json is no tokenizer file"):
        _tokenizer(content)


def test_a_tokenizer_with_another_end_token_is_refused(tokenizer_json: str) -> None:
    """A tokenizer that does not end texts as the manifest says belongs to another model."""
    with pytest.raises(BundleError, match="does not end texts with token 5"):
        _tokenizer(tokenizer_json, end_token_id=5)


def test_settings_in_the_file_do_not_count(tokenizer_json: str) -> None:
    """Truncation and padding stored in the tokenizer file are ignored: the manifest decides."""
    library = Library.from_str(tokenizer_json)
    library.enable_padding(length=30)
    library.enable_truncation(3)
    plain = _tokenizer(tokenizer_json).encode("a red bicycle")
    assert _tokenizer(library.to_str()).encode("a red bicycle").ids.tolist() == plain.ids.tolist()
