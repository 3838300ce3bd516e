"""Ranking of items by the words of their texts, as SQL over FTS5; knows nothing of vectors.

A query is text, not a language: it is cut at white space, and each piece is handed to FTS5 as a quoted phrase, which
FTS5 cuts as it cut the texts ("t-shirt" is `t` followed by `shirt`). So no character can be taken for syntax. Texts
match when any piece does, and are ranked by BM25 with FTS5's constants (k1 = 1.2, b = 0.75; Robertson & Zaragoza 2009,
"The Probabilistic Relevance Framework: BM25 and Beyond").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import apsw

from clip_search_server.index.filter_sql import sql_of
from clip_search_server.index.filters import Filter

_BEST = """
SELECT items.label, items.id, -bm25(texts) AS relevance FROM texts CROSS JOIN items ON items.label = texts.rowid
WHERE texts MATCH ? AND {test} ORDER BY relevance DESC, items.id LIMIT ?
"""
_NO_LIMIT = -1


@dataclass(frozen=True, slots=True)
class TextMatch:
    """An item whose text matches, and how well; larger is better, and no unit."""

    label: int
    id: str
    relevance: float


def phrases_of(words: str, count_max: int) -> str:
    """Return what FTS5 shall look for: any of the first `count_max` distinct words, or nothing ("")."""
    # FTS5 reads a query up to its first NUL, and halves of surrogate pairs are no UTF-8.
    readable = words.replace("\0", " ").encode(errors="replace").decode()
    pieces = list(dict.fromkeys(readable.casefold().split()))[:count_max]
    return " OR ".join('"' + piece.replace('"', '""') + '"' for piece in pieces)


def best_texts(
    connection: apsw.Connection, words: str, filter_: Filter | None, *, count: int | None, words_max: int
) -> Iterator[TextMatch]:
    """Yield items whose texts match any of the words, by falling relevance, ties by id.

    Args:
        connection: where to look.
        words: what to look for.
        filter_: only items that it allows; None allows all.
        count: how many at most; None for all.
        words_max: distinct words that are looked for; more are left out.
    """
    phrases = phrases_of(words, words_max)
    if not phrases:
        return
    test = sql_of(filter_, "items.label")
    limit = _NO_LIMIT if count is None else count
    for row in connection.execute(_BEST.format(test=test.text), (phrases, *test.bindings, limit)):
        label, item_id, relevance = cast("tuple[int, bytes, float]", row)
        yield TextMatch(label, item_id.decode(), relevance)
