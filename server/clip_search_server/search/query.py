"""Search: weighted parts become one query vector and its words, and what they find become hits; knows nothing of gRPC.

score(item) = cosine(item, normalize(Σ weightᵢ · embeddingᵢ))

Rankings by text look for the words of the text parts that are wanted. Weights count for the vector alone. What a
negative weight steers away from is no word to look for, and a ranking by text alone has no other use for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.encoder import Encoder, Vector
from clip_search_server.errors import FailedPreconditionError, InvalidArgumentError
from clip_search_server.index import Filter, Found, Ranking, Search
from clip_search_server.limits import Limits
from clip_search_server.search.collection import AsyncCollection
from clip_search_server.search.concurrency import run_together
from clip_search_server.search.content import Content, TextContent, embed_content

__all__ = ["Query", "QueryPart", "compose", "search"]

_LIMIT_DEFAULT = 10
#: A weighted sum shorter than this, relative to its largest part, is rounding noise around zero.
_ZERO_SUM_RATIO = 1e-5


@dataclass(frozen=True, slots=True)
class QueryPart:
    """One ingredient of a query; a negative weight steers away from it."""

    content: Content
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for; `limit` 0 means the default of 10."""

    parts: Sequence[QueryPart]
    limit: int = 0
    offset: int = 0
    ranking: Ranking = "vector"
    filter: Filter | None = None
    exact: bool = False
    min_score: float | None = None
    at_least_sequence: int | None = None


async def search(
    query: Query, collection: AsyncCollection, encoder: Encoder, limits: Limits, urgency: Urgency
) -> Found:
    """Return the items that `query` asks for.

    Raises:
        InvalidArgumentError: a bad part, bound or filter, parts that cancel out, or no words to rank by.
        NotFoundError: a part names an item that does not exist.
        FailedPreconditionError: the collection has not come to `at_least_sequence`.
        DeadlineExceededError: the deadline passed before the collection was searched.
    """
    limit = query.limit or min(_LIMIT_DEFAULT, limits.search_limit_max)
    _check(query, limit, limits)
    words = "" if query.ranking == "vector" else _words_of(query)
    if query.at_least_sequence is not None and collection.sequence < query.at_least_sequence:
        raise FailedPreconditionError(
            f"at_least_sequence: the collection has come to {collection.sequence}, not {query.at_least_sequence}."
        )
    vector = await compose(query.parts, collection, encoder, urgency)
    urgency.check()
    return await collection.find(
        Search(
            vector,
            limit=limit,
            offset=query.offset,
            ranking=query.ranking,
            words=words,
            filter=query.filter,
            exact=query.exact,
            min_score=query.min_score,
        )
    )


async def compose(
    parts: Sequence[QueryPart], collection: AsyncCollection, encoder: Encoder, urgency: Urgency
) -> Vector:
    """Return normalize(Σ weightᵢ · embeddingᵢ), shape (dim,).

    Raises:
        InvalidArgumentError: a part is bad, or the sum is zero.
        NotFoundError: a part names an item that does not exist.
    """
    vectors = await run_together(
        embed_content(part.content, encoder, collection, urgency, field=f"parts[{number}].content")
        for number, part in enumerate(parts)
    )
    weights = np.array([part.weight for part in parts], dtype=np.float64)
    total = weights @ np.stack(vectors).astype(np.float64)  # (dim,)
    length = float(np.linalg.norm(total))
    if length <= _ZERO_SUM_RATIO * float(np.abs(weights).max()):
        raise InvalidArgumentError("parts", "cancel out: their weighted sum is zero, so it points nowhere.")
    return (total / length).astype(np.float32)


def _words_of(query: Query) -> str:
    """Return the words that a ranking by text looks for."""
    wanted = []
    for number, part in enumerate(query.parts):
        is_wanted_text = isinstance(part.content, TextContent) and part.weight > 0
        if query.ranking == "text" and not is_wanted_text:
            raise InvalidArgumentError(
                f"parts[{number}]",
                "cannot be ranked by text, which takes texts of positive weight; rank by vector, or by both.",
            )
        if isinstance(part.content, TextContent) and part.weight > 0:
            wanted.append(part.content.text)
    if not wanted:
        raise InvalidArgumentError(
            "parts", "hold no text of positive weight, whose words both rankings could be joined by; rank by vector."
        )
    return " ".join(wanted)


def _check(query: Query, limit: int, limits: Limits) -> None:
    if not 1 <= len(query.parts) <= limits.query_parts_max:
        raise InvalidArgumentError(
            "parts", f"has {len(query.parts)} entries; 1 to {limits.query_parts_max} are accepted."
        )
    for number, part in enumerate(query.parts):
        if part.weight == 0 or not math.isfinite(part.weight):
            raise InvalidArgumentError(f"parts[{number}].weight", f"is {part.weight}; it must be finite and not zero.")
    if query.offset + limit > limits.search_limit_max:
        raise InvalidArgumentError(
            "limit", f"offset + limit is {query.offset + limit}; at most {limits.search_limit_max} is accepted."
        )
    if query.min_score is not None and math.isnan(query.min_score):
        raise InvalidArgumentError("min_score", "is not a number.")
