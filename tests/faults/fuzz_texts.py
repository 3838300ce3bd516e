"""Texts to mutate: for the tokenizer and every way of cleaning, and for the syntax of filters."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from clip_search.filter_text import FilterSyntaxError, parse_filter
from clip_search.filter_writer import text_of
from clip_search_server.bundle import Bundle, TextCleaning
from clip_search_server.encoder.text_cleaning import clean_text
from clip_search_server.encoder.tokens import Tokenizer
from tests.faults.mutation import mutate

FILTER_ANSWERS = (FilterSyntaxError,)

_SENTENCES = (
    "a photo of a red bicycle against a wall",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich",
    "\uff26\uff35\uff2c\uff2c\u3000\uff57\uff49 \ufb01ne \ufb02our \u0133 \u01c6 \u0149 \u201cquotes\u201d",
    "&amp;amp; &lt;b&gt; &#x1F600; &#99999999; &#xD800; &unknown;",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f1e9\U0001f1ea e\u0301\u0302\u0303",
    "\u202eright to left\u202c \ufeff\u200b\u00ad",
    "<|startoftext|> <|endoftext|> [CLS] </s> <pad> ▁▁▁",
    "漢字かなカナ한국어ไทยहिन्दी العربية",
    "\t\n\r\v\f  \0  \x1b[31m \u2028\u2029",
    "a" * 300,
)
_FILTERS = (
    'year >= 2020 and tag in (dog, "black and white")',
    "not (a = 1 or b != -2.5e3) and 2010 <= year < 2020",
    "when > 2026-05-04T12:30+02:00 and ok = true",
    "tag not exists or tag not in ('it\\'s', \"\\u00e4\\n\")",
    "((((a exists))))",
)


def make_tokens(bundle: Path) -> Callable[[int], None]:
    """Return what cleans and tokenizes a mutated text."""
    opened = Bundle.open(bundle)
    tokenizer, length_max = Tokenizer.from_bundle(opened), opened.manifest.context_length

    def run(number: int) -> None:
        chance = random.Random(number)
        text = _mutated_text(_SENTENCES, chance)
        if chance.random() < 0.01:
            text = (text * 1_000)[:10_000]
        clean_text(text, chance.choice(get_args(TextCleaning)))
        tokens = tokenizer.encode(text)
        assert 0 < len(tokens.ids) <= length_max
        assert 0 <= tokens.end < len(tokens.ids)

    return run


def make_filters() -> Callable[[int], None]:
    """Return what reads a mutated filter and, where it is one, writes and reads it again."""

    def run(number: int) -> None:
        found = parse_filter(_mutated_text(_FILTERS, random.Random(number)))
        assert parse_filter(text_of(found)) == found

    return run


def _mutated_text(seeds: Sequence[str], chance: random.Random) -> str:
    """Return a mutated text: of its bytes, what is left of UTF-8, or of its characters."""
    encoding = chance.choice(("utf-8", "utf-16-le", "utf-32-le"))
    data = mutate([seed.encode(encoding) for seed in seeds], chance)
    text = data.decode(encoding, errors="ignore")
    return text.encode("utf-8", errors="ignore").decode()  # what a message can carry
