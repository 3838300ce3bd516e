"""What is done to a text before the tokenizer sees it; knows nothing of tokens.

`none` leaves everything to the tokenizer file, as Hugging Face's fast tokenizers do. The others are those of the
models' references:

    basic               open_clip's `lower`, that of CLIP's own tokenizer: runs of white space to one space, lower case
    whitespace          open_clip's `whitespace`: the former alone
    canonicalize        open_clip's `canonicalize`: underscores to spaces, no punctuation, then as `basic`
    strip_punctuation   SigLIP's: no punctuation, then as `basic`
    lower               SigLIP 2's: lower case alone

Punctuation is ASCII's, as in all of these references. open_clip's three begin by tidying: typographic quotes become
straight ones, ligatures and full-width forms the letters that they stand for, HTML entities their characters, and
control characters go. Left out is the repair of broken encodings that open_clip has from a further package (ftfy).
"""

import html
import string
import unicodedata
from collections.abc import Callable

from clip_search_server.bundle import TextCleaning

__all__ = ["clean_text"]

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)

_QUOTES = {**dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'"), **dict.fromkeys("\u201c\u201d\u201e\u201f", '"')}
_LIGATURES_AND_WIDTHS = (
    *range(0x0132, 0x0134),  # ij
    *range(0x01C4, 0x01CD),  # dž, lj, nj
    *range(0x01F1, 0x01F4),  # dz
    *(0x3000, *range(0xFB00, 0xFB05), 0xFB06),  # a wide space; ff to ffl, st
    *range(0xFF01, 0xFFF0),  # full and half width
)
_CONTROLS = (
    *(code for code in range(0x20) if chr(code) not in "\t\n\f\r"),
    *(0x7F, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)),
)
_TIDY = str.maketrans(
    {
        **{chr(code): unicodedata.normalize("NFKC", chr(code)) for code in _LIGATURES_AND_WIDTHS},
        **{chr(code): "" for code in _CONTROLS},
        **_QUOTES,
        "\u0149": "'n",
        "\ufb05": "\u017ft",
    }
)


def clean_text(text: str, cleaning: TextCleaning) -> str:
    """Return `text` as the model's reference cleans it."""
    return _CLEANERS[cleaning](text)


def _tidy(text: str) -> str:
    # Entities may be escaped twice, as they are in captions taken from the web.
    plain = html.unescape(html.unescape(text))
    return unicodedata.normalize("NFC", plain.translate(_TIDY))


def _fold(text: str) -> str:
    return " ".join(text.split()).lower()


def _strip_punctuation(text: str) -> str:
    return _fold(text.translate(_WITHOUT_PUNCTUATION))


_CLEANERS: dict[TextCleaning, Callable[[str], str]] = {
    "none": str,
    "basic": lambda text: _fold(_tidy(text)),
    "whitespace": lambda text: " ".join(_tidy(text).split()),
    "lower": str.lower,
    "canonicalize": lambda text: _strip_punctuation(_tidy(text).replace("_", " ")),
    "strip_punctuation": _strip_punctuation,
}
