"""Queries that people are likely to ask, for collections that nobody has asked yet; knows nothing of the index.

Segments are tuned for texts (index/tuning.py), and where none were asked there would be none to tune for. What these
say matters little: any short caption lies where texts lie.
"""

import asyncio

import numpy as np

from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.encoder import Encoder
from clip_search_server.search.catalog import Catalog

__all__ = ["LIKELY_QUERIES", "expect_likely_queries"]

_SUBJECTS = (
    "a dog", "two children", "an old man", "a woman in a red coat", "a black cat", "a group of friends", "a horse",
    "a white bird", "a bicycle", "a blue car", "a sailing boat", "a train", "a cake with candles", "a bowl of soup",
    "a stone bridge", "a wooden house",
)  # fmt: skip
_SETTINGS = ("on a beach at sunset", "in the snow", "in a busy street at night", "on a green meadow")

LIKELY_QUERIES = tuple(f"{subject} {setting}" for setting in _SETTINGS for subject in _SUBJECTS)
"""64 captions."""


async def expect_likely_queries(encoder: Encoder, catalog: Catalog) -> None:
    """Embed them, behind whatever else there is to embed, and tell the collections of the encoder's space.

    Raises:
        ClipSearchError: they could not be embedded.
    """
    urgency = Urgency(bulk=True)
    vectors = await asyncio.gather(*(encoder.embed_text(text, urgency) for text in LIKELY_QUERIES))
    catalog.expect_queries(encoder.space_id, np.stack(vectors))
