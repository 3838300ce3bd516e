"""All that users see of a data folder, as plain JSON values; knows nothing of formats.

Scores are rounded to what single precision on any processor agrees on.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from clip_search_server.index import (
    AllOf,
    AttributeValue,
    Bound,
    Collection,
    DataFolder,
    Equals,
    Exists,
    Filter,
    Found,
    IndexSettings,
    OneOf,
    Range,
    Search,
)
from clip_search_server.index.types import FloatArray
from tests.unit.index.support import random_vectors

_SCORE_DIGITS = 5
_ITEMS_MAX = 1000

FILTERS: dict[str, Filter | None] = {
    "nothing": None,
    "a word": Equals("kind", "cat"),
    "a word of a list": OneOf("tags", ("small", "brown")),
    "a span of whole numbers": Range("number", lower=Bound(5, inclusive=True), upper=Bound(30, inclusive=True)),
    "fractions and truths": AllOf(
        (Range("weight", lower=Bound(2.5, inclusive=True), upper=None), Equals("tame", True))
    ),
    "an instant": Range("seen", lower=Bound(datetime(2026, 3, 1, tzinfo=UTC), inclusive=False), upper=None),
    "being there": Exists("nickname"),
}


def describe(data: Path, settings: IndexSettings, reported: list[str]) -> dict[str, Any]:
    """Open a data folder, and every collection in it, and return what is there and what searches answer.

    Args:
        data: the folder.
        settings: what collections are opened with.
        reported: gets every line that opening reports.
    """
    with DataFolder(data, reported.append) as folder:
        folder.note_findings()
        contents = folder.contents
        return {
            "aliases": dict(contents.aliases),
            "collections": {
                name: _described(folder.folder_of(name), settings, reported) for name in sorted(contents.collections)
            },
        }


def _described(folder: Path, settings: IndexSettings, reported: list[str]) -> dict[str, Any]:
    collection = Collection.open_existing(folder, settings=settings, progress=reported.append)
    try:
        items = collection.list_items(limit=_ITEMS_MAX)
        ids = [item.id for item in items]
        assert collection.stats().damage == ()
        return {
            "space_id": collection.space_id,
            "dim": collection.dim,
            "sequence": collection.sequence,
            "items": [
                {
                    "id": item.id,
                    "sequence": item.sequence,
                    "vector": item.vector.astype("<f4").tobytes().hex(),
                    "attributes": {name: _plain(value) for name, value in sorted(item.attributes.items())},
                    "text": item.text,
                    "content_digest": item.content_digest.hex(),
                    "thumbnail": (thumbnail or b"").hex(),
                }
                for item, thumbnail in zip(items, collection.thumbnails(ids), strict=True)
            ],
            "searches": {name: _answers(collection, filter_) for name, filter_ in FILTERS.items()},
            "texts": _hits(collection.find(Search(_queries(collection)[0], 8, ranking="text", words="cat river"))),
            "fused": _hits(collection.find(Search(_queries(collection)[0], 8, ranking="fused", words="cat river"))),
        }
    finally:
        collection.close()


def _queries(collection: Collection) -> FloatArray:  # (2, dim)
    return random_vectors(2, seed=71, dim=collection.dim)


def _answers(collection: Collection, filter_: Filter | None) -> list[list[list[str | float]]]:
    """Return what two queries find, after asserting that an exact search finds the same."""
    answers = []
    for query in _queries(collection):
        graph, exact = (
            _hits(collection.find(Search(query, 10, filter=filter_, exact=exact))) for exact in (False, True)
        )
        assert graph == exact, "a search of the graph and an exact one disagree"
        answers.append(graph)
    return answers


def _hits(found: Found) -> list[list[str | float]]:
    return [[hit.item.id, float(np.round(hit.score, _SCORE_DIGITS)) + 0.0] for hit in found.hits]


def _plain(value: AttributeValue) -> Any:
    if isinstance(value, datetime):
        return {"instant": value.isoformat()}
    return list(value) if isinstance(value, tuple) else value
