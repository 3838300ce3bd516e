"""What every engine does alike when it builds and saves a graph; knows nothing of any of them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from clip_search_server.index.segment import BuildCancelledError
from clip_search_server.index.settings import IndexSettings
from clip_search_server.index.types import FloatArray

_INSERTED_AT_ONCE = 2048  # between two looks at `cancelled`


def parameters_of(settings: IndexSettings) -> Mapping[str, int]:
    """Return what graphs are built with, as it is kept with every segment."""
    return {"graph_links": settings.graph_links, "ef_construction": settings.ef_construction}


def parts_to_insert(
    held: int, vectors: FloatArray, cancelled: Callable[[], bool]
) -> Iterator[tuple[int, FloatArray]]:  # (nodes, dim) -> first node, (nodes of the part, dim)
    """Yield the vectors from node `held` on, part by part, each with the number of its first node.

    Raises:
        BuildCancelledError: `cancelled()` before a part.
    """
    for first in range(held, len(vectors), _INSERTED_AT_ONCE):
        if cancelled():
            raise BuildCancelledError
        yield first, vectors[first : first + _INSERTED_AT_ONCE]


def check_size(path: Path, wanted_bytes: int) -> None:
    """Raise OSError unless the file has the size that its graph needs."""
    written = path.stat().st_size if path.exists() else 0
    if written != wanted_bytes:
        raise OSError(f"{path}: {written} of {wanted_bytes} bytes could be written; is the disk full?")
