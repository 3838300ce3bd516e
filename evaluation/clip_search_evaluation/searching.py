"""Asks `Search` for the pictures of each text, as people do, and tells where the right ones come.

The other figures compare vectors exactly, within the data. This one is of what is served: the approximate index, and a
collection that may hold other items besides. Knows nothing of figures.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_search.client import Client
from clip_search.results import StoredItem
from clip_search_evaluation.datasets.dataset import Dataset
from clip_search_evaluation.errors import EvaluationError
from clip_search_evaluation.metrics.arrays import IntArray
from clip_search_evaluation.watching import Watch

__all__ = ["HITS", "NOT_ASKED", "Searched", "search_texts"]

#: How many hits a search asks for, as a person would.
HITS = 10
#: The rank of a text of which no picture is in the collection.
NOT_ASKED = 0
_SEARCHES_AT_ONCE = 4


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """What the searches brought.

    Attributes:
        ranks: (texts,), of the first right item; `HITS` + 1 where none is among the hits, `NOT_ASKED` where none is
            stored.
        items: how many items the collection holds.
        pictures: how many of the data's pictures are among them.
    """

    ranks: IntArray
    items: int
    pictures: int


def search_texts(client: Client, collection: str, dataset: Dataset, watch: Watch) -> Searched:
    """Search a collection by each text of the data.

    Args:
        client: of that collection.
        collection: its name, for messages.
        dataset: an item is one of its pictures if its attribute `path` is the picture's path; failing that, if its
            `file_name` is that of one picture alone.
        watch: is told of each text.

    Raises:
        EvaluationError: the collection has none of the pictures.
        ClipSearchError: the server does not answer.
    """
    items = list(client.every_item())
    picture_of = _pictures_of_items(items, dataset.pictures)
    if not picture_of:
        raise EvaluationError(
            f"collection {collection!r} holds none of the {len(dataset.pictures):,} pictures: index them first "
            f"with search_client --collection {collection} index {dataset.pictures[0].parent}"
        )
    stored = set(picture_of.values())
    right: dict[int, set[int]] = defaultdict(set)
    for text, picture in dataset.pairs.tolist():
        if picture in stored:
            right[text].add(picture)
    ranks = np.full(len(dataset.texts), NOT_ASKED, np.int64)

    def search(text: int) -> int:
        hits = client.search(dataset.texts[text], limit=HITS).hits
        found = (rank for rank, hit in enumerate(hits, 1) if picture_of.get(hit.id) in right[text])
        return next(found, HITS + 1)

    asked = sorted(right)
    with ThreadPoolExecutor(_SEARCHES_AT_ONCE) as pool:
        futures = [pool.submit(search, text) for text in asked]
        try:
            for text, future in zip(asked, futures, strict=True):
                ranks[text] = future.result()
                watch.passed(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Searched(ranks, len(items), len(stored))


def _pictures_of_items(items: Sequence[StoredItem], pictures: Sequence[Path]) -> dict[str, int]:
    """Return the row of the picture that each item was made from, by the item's id."""
    by_path = {os.path.abspath(path): row for row, path in enumerate(pictures)}  # noqa: PTH100  # as `index` stores them
    by_name: dict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(pictures):
        by_name[path.name].append(row)
    found = {}
    for item in items:
        same_path = by_path.get(str(item.attributes.get("path")))
        same_name = by_name.get(str(item.attributes.get("file_name")), [])
        if same_path is not None:
            found[item.id] = same_path
        elif len(same_name) == 1:
            found[item.id] = same_name[0]
    return found
