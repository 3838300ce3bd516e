"""Searching, over a collection and an encoder that note what they are asked for."""

import time
from typing import Any, cast

import numpy as np
import pytest

from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.encoder import Encoder
from clip_search_server.errors import DeadlineExceededError
from clip_search_server.limits import Limits
from clip_search_server.search.collection import AsyncCollection
from clip_search_server.search.content import TextContent
from clip_search_server.search.query import Query, QueryPart, search


class SlowEncoder:
    """Takes longer than the caller has."""

    async def embed_text(self, text: str, urgency: Urgency) -> Any:
        """Return a vector when the deadline has passed."""
        assert urgency.deadline is not None
        time.sleep(max(0.0, urgency.deadline - time.monotonic()))  # noqa: ASYNC251 - nobody else is here
        return np.ones(2, np.float32)


class NotedCollection:
    """Counts searches."""

    searches = 0

    async def find(self, asked: object) -> None:
        """Count one."""
        self.searches += 1


async def test_a_collection_is_not_searched_for_nobody() -> None:
    """A query that was embedded too late ends there."""
    collection = NotedCollection()
    with pytest.raises(DeadlineExceededError):
        await search(
            Query([QueryPart(TextContent("late"))]),
            cast("AsyncCollection", collection),
            cast("Encoder", SlowEncoder()),
            Limits(),
            Urgency(deadline=time.monotonic() + 0.01),
        )
    assert collection.searches == 0
