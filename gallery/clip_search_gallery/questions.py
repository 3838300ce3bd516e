"""An address's query becomes a search: `?q=a+dog&not=on+a+beach&like=ID&filter=year>=2020`.

The page's own address carries the same names, so a search can be kept and passed on.

    q        words to look for                          weight  1
    image    key of an uploaded picture; repeated       weight  1
    like     id of an item; repeated                    weight  1
    not      words to steer away from; repeated         weight -0.5
    unlike   id of an item to steer away from; repeated weight -0.5
    filter   only items that match, as `clip_search.filter_text` reads it
    rank     vector (the default), text or fused
    limit    how many to give
    cursor   where the answer before ended: its `next`

Without anything to look for, items are listed in order of their ids. Knows nothing of HTTP beyond names and values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, get_args

from starlette.datastructures import QueryParams

from clip_search.client import Ranking
from clip_search.contents import Image, ItemId, Part, Text
from clip_search.filter_text import parse_filter
from clip_search.filters import Filter
from clip_search_gallery.problems import GatewayError
from clip_search_gallery.uploads import Uploads

__all__ = ["LIMIT_MAX", "Question", "read_question"]

#: Half as strong as what is looked for, as in `search_client search --not`.
_NOT_WEIGHT = -0.5
_LIMIT = 48
#: Of one answer; the page asks for more as it is scrolled.
LIMIT_MAX = 200


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for.

    Args:
        parts: ingredients of the query; without any, items are listed.
        likes: ids that something similar is wanted to, which the answer leaves out.
        filter: only items that match.
        ranking: what hits are ordered by.
        limit: how many to give.
        cursor: where the answer before ended, empty for the beginning.
    """

    parts: Sequence[Part]
    likes: frozenset[str]
    filter: Filter | None
    ranking: Ranking
    limit: int
    cursor: str

    @property
    def offset(self) -> int:
        """How many hits to skip.

        Raises:
            GatewayError: the cursor is not of a search.
        """
        if not self.cursor:
            return 0
        if not self.cursor.isdecimal() or len(self.cursor) > 9:  # noqa: PLR2004  # beyond any server's limit
            raise GatewayError(400, "QUERY", "cursor: is not one that a search gave out")
        return int(self.cursor)


def read_question(query: QueryParams, uploads: Uploads) -> Question:
    """Read an address's query.

    Raises:
        FilterSyntaxError: the filter is none.
        GatewayError: a value is not one of those allowed, or an uploaded picture is no longer kept.
    """
    words = query.get("q", "").strip()
    filter_text = query.get("filter", "").strip()
    likes = _values(query, "like")
    parts = [
        *([Part(Text(words))] if words else []),
        *(Part(_uploaded(key, uploads)) for key in _values(query, "image")),
        *(Part(ItemId(item_id)) for item_id in likes),
        *(Part(Text(text), _NOT_WEIGHT) for text in _values(query, "not")),
        *(Part(ItemId(item_id), _NOT_WEIGHT) for item_id in _values(query, "unlike")),
    ]
    return Question(
        parts=parts,
        likes=frozenset(likes),
        filter=parse_filter(filter_text) if filter_text else None,
        ranking=_ranking(query.get("rank", "")),
        limit=_limit(query.get("limit", "")),
        cursor=query.get("cursor", ""),
    )


def _values(query: QueryParams, name: str) -> list[str]:
    return [value for value in query.getlist(name) if value.strip()]


def _uploaded(key: str, uploads: Uploads) -> Image:
    picture = uploads.get(key)
    if picture is None:
        raise GatewayError(410, "UPLOAD_GONE", "the picture to search by is no longer here; choose it once more")
    return Image(picture)


def _ranking(text: str) -> Ranking:
    if not text:
        return "vector"
    if text not in get_args(Ranking):
        raise GatewayError(400, "QUERY", f"rank: is one of {', '.join(get_args(Ranking))}, not {text!r}")
    return cast("Ranking", text)


def _limit(text: str) -> int:
    if not text:
        return _LIMIT
    if not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= LIMIT_MAX:  # noqa: PLR2004  # any longer is more
        raise GatewayError(400, "QUERY", f"limit: is a number from 1 to {LIMIT_MAX}")
    return int(text)
