"""From text to token ids, and where in them the pooled token is; knows nothing of towers or sessions.

The pooled position is found here, on integers. In a graph that runs in FP16 the ids 49406 and 49407 would be the same
number.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as _Encoder

from clip_search_server.bundle import Bundle, Manifest
from clip_search_server.encoder.text_cleaning import clean_text
from clip_search_server.errors import BundleError

__all__ = ["Tokenizer", "Tokens"]


@dataclass(frozen=True)
class Tokens:
    """The tokens of one text."""

    ids: npt.NDArray[np.int64]  # (length,), start and end tokens included
    end: int
    """Position in `ids` of the token whose output is the text's embedding."""


class Tokenizer:
    """Tokenizes texts for one bundle; safe to share between threads."""

    def __init__(self, tokenizer_json: str, manifest: Manifest) -> None:
        """Take the tokenizer file's content and the manifest that says how to use it.

        Raises:
            BundleError: the content is no tokenizer, or its empty text does not end with the manifest's end token.
        """
        self._manifest = manifest
        try:
            self._encoder = _Encoder.from_str(tokenizer_json)
        except Exception as error:  # The library raises bare Exception.
            raise BundleError(f"{manifest.tokenizer} is no tokenizer file: {error}") from error
        # The file may carry settings of its own; length is handled here.
        self._encoder.no_padding()
        self._encoder.no_truncation()
        if self._encode_all("")[-1:] != [manifest.end_token_id]:
            raise BundleError(f"{manifest.tokenizer} does not end texts with token {manifest.end_token_id}.")

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> "Tokenizer":
        """Build the tokenizer of a bundle.

        Raises:
            BundleError: the bundle's tokenizer file cannot be used.
        """
        return cls(bundle.tokenizer_path.read_text(encoding="utf-8"), bundle.manifest)

    def encode(self, text: str) -> Tokens:
        """Tokenize one text; an empty one is valid and has a start and an end token.

        A text longer than the context is truncated and keeps its end token. Ids are as long as the text where the
        tower allows it (`trim_padding`), else padded to the context length.
        """
        manifest = self._manifest
        ids = self._encode_all(text)
        if len(ids) > manifest.context_length:
            ids = [*ids[: manifest.context_length - 1], manifest.end_token_id]
        end = self._pooled_position(ids)
        if not manifest.trim_padding:
            ids += [manifest.pad_token_id] * (manifest.context_length - len(ids))
        return Tokens(ids=np.array(ids, dtype=np.int64), end=end)

    def _encode_all(self, text: str) -> list[int]:
        cleaned = clean_text(text, self._manifest.text_cleaning)
        return list(self._encoder.encode(cleaned).ids)

    def _pooled_position(self, ids: list[int]) -> int:
        # `index` finds the first: words of the text may spell a special token.
        if self._manifest.text_pooling == "last":
            return self._manifest.context_length - 1
        if self._manifest.text_pooling == "highest_id":
            return ids.index(max(ids))
        return ids.index(self._manifest.end_token_id)
