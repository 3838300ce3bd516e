"""The demo's view of a running server: pictures are known by the code points of their emoji.

A thin layer over the project's Python client. Knows nothing of how the server is started, and nothing of what the
answers are used for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from clip_search.client import Client
from clip_search.contents import Image, Text
from clip_search.results import Model, Snapshot, Stats

FloatArray = npt.NDArray[np.float32]

_DEADLINE_S = 60.0
_PAGE_ITEMS = 500


class RemoteError(Exception):
    """The server answered, but not with what the demo stored in it or asked for."""


@dataclass(frozen=True, slots=True)
class RankedPicture:
    """One hit: the code points of its emoji, and its cosine with the query."""

    hexcode: str
    score: float


def hexcode_of(item_id: str) -> str:
    """Return the code points in the id of an indexed picture, such as `1F34E` of `pictures/red-apple_1F34E.png`.

    Raises:
        RemoteError: when the id is not one of the sample pictures'.
    """
    stem, _, extension = item_id.rpartition("/")[2].rpartition(".")
    _, mark, hexcode = stem.rpartition("_")
    if extension != "png" or not mark:
        raise RemoteError(f"the server holds an item that is no sample picture: {item_id!r}")
    return hexcode


class Remote:
    """Asks one server: a `demo.evaluation.PictureSearch`. Usable from several threads; raises what `Client` raises."""

    def __init__(self, address: str) -> None:
        self._client = Client(address, timeout_seconds=_DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._client.close()

    def ranking(self, query: str, limit: int) -> list[RankedPicture]:
        """Return the pictures that fit `query` best, best first."""
        hits = self._client.search(query, limit=limit).hits
        return [RankedPicture(hexcode_of(hit.id), hit.score) for hit in hits]

    def search(self, query: str, limit: int) -> list[str]:
        """Return the hexcodes of the pictures that fit `query` best, best first."""
        return [picture.hexcode for picture in self.ranking(query, limit)]

    def text_vectors(self, texts: Sequence[str]) -> FloatArray:
        """Return the vectors of `texts`, float32 (texts, dim), of unit length; there must be some."""
        outcomes = [
            outcome
            for start in range(0, len(texts), _PAGE_ITEMS)
            for outcome in self._client.embed(map(Text, texts[start : start + _PAGE_ITEMS])).outcomes
        ]
        vectors = []
        for text, outcome in zip(texts, outcomes, strict=True):
            if outcome.vector is None:
                raise RemoteError(f"the server could not embed {text!r}: {outcome.error}")
            vectors.append(outcome.vector)
        return np.stack(vectors)

    def picture_vectors(self) -> dict[str, FloatArray]:
        """Return the stored vector of every picture, float32 (dim,), by hexcode."""
        vectors: dict[str, FloatArray] = {}
        token = ""
        while True:
            page = self._client.list_items(page_size=_PAGE_ITEMS, page_token=token, include_vectors=True)
            for item in page.items:
                if item.vector is None:
                    raise RemoteError(f"the server gave no vector for {item.id!r}")
                vectors[hexcode_of(item.id)] = item.vector
            token = page.next_page_token
            if not token:
                return vectors

    def classify(self, picture: bytes, labels: Sequence[str]) -> dict[str, float]:
        """Return how probable each label is for an encoded picture."""
        answer = self._client.classify(Image(picture), labels)
        return {each.label: each.probability for each in answer.classifications}

    def model(self) -> Model:
        """Return what the server tells of its default model."""
        return self._client.server_info().models[0]

    def stats(self) -> Stats:
        """Return the figures of the collection."""
        return self._client.stats()

    def snapshot(self) -> Snapshot:
        """Have the server publish a generation and return it."""
        return self._client.snapshot()
