"""What is done to a text before the tokenizer sees it; knows nothing of tokens.

`none` leaves everything to the tokenizer file, as Hugging Face's fast tokenizers do. `basic` is the cleaning of CLIP's
own tokenizer (runs of white space to one space, strip, lower case) without its repair of broken encodings and HTML
entities, which need a further package and change no well-formed text.
"""

from collections.abc import Callable

from clip_search_server.bundle import TextCleaning

__all__ = ["clean_text"]


def clean_text(text: str, cleaning: TextCleaning) -> str:
    """Return `text` as the model's reference cleans it."""
    return _CLEANERS[cleaning](text)


def _basic(text: str) -> str:
    return " ".join(text.split()).lower()


_CLEANERS: dict[TextCleaning, Callable[[str], str]] = {"none": str, "basic": _basic}
