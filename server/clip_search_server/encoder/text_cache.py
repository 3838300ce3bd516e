"""Embeddings of texts that were asked for lately; knows nothing of how they are made."""

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

__all__ = ["TextCache"]

_Vector = npt.NDArray[np.float32]


class TextCache:
    """Keeps the embeddings of the texts used last.

    Args:
        length_max: texts kept.
        text_chars_max: longer texts are not kept: few ask for the same one twice, and they would fill the memory.
    """

    def __init__(self, *, length_max: int = 4_096, text_chars_max: int = 1_000) -> None:
        self._length_max = length_max
        self._text_chars_max = text_chars_max
        self._vectors: OrderedDict[str, _Vector] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, text: str) -> _Vector | None:
        """Return the embedding (dim,) of a text, read-only, and keep it longer; None where it is not here."""
        vector = self._vectors.get(text)
        if vector is None:
            self.misses += 1
        else:
            self.hits += 1
            self._vectors.move_to_end(text)
        return vector

    def put(self, text: str, vector: _Vector) -> _Vector:
        """Keep a copy of the embedding and return it, read-only; a row of a batch would keep the whole batch alive."""
        kept = vector.copy()
        kept.setflags(write=False)
        if len(text) <= self._text_chars_max:
            self._vectors[text] = kept
            self._vectors.move_to_end(text)
            if len(self._vectors) > self._length_max:
                self._vectors.popitem(last=False)
        return kept
