from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from clip_search_server.index import Collection, IndexSettings
from clip_search_server.index.segment import SegmentEngine
from clip_search_server.index.tuning import QuerySource, no_queries
from tests.unit.index.support import DIM, SPACE


class OpenCollection(Protocol):
    """Opens a collection below the test's folder."""

    def __call__(
        self,
        settings: IndexSettings = ...,
        *,
        engine: SegmentEngine | None = ...,
        recent_queries: QuerySource = ...,
        name: str = ...,
    ) -> Collection:
        """Open it with these settings, or with small bounds."""
        ...


@pytest.fixture
def reported() -> list[str]:
    """The lines that collections opened by `open_collection` reported."""
    return []


@pytest.fixture
def open_collection(tmp_path: Path, reported: list[str]) -> Iterator[OpenCollection]:
    """Open (and open again) a collection with small bounds; all are closed at the end."""
    opened: list[Collection] = []

    def open_one(
        settings: IndexSettings | None = None,
        *,
        engine: SegmentEngine | None = None,
        recent_queries: QuerySource = no_queries,
        name: str = "collection",
    ) -> Collection:
        settings = settings or IndexSettings(tail_rows_max=32, segments_max=3)
        collection = Collection.open(
            tmp_path / name,
            dim=DIM,
            space_id=SPACE,
            settings=settings,
            progress=reported.append,
            engine=engine,
            recent_queries=recent_queries,
        )
        opened.append(collection)
        return collection

    yield open_one
    for collection in opened:
        collection.close()
