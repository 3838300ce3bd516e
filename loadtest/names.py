"""What requests are called in reports and SLO files; knows nothing of Locust, so that everything can import it."""

from collections.abc import Iterable, Mapping

__all__ = [
    "CLASSIFY",
    "CONNECT",
    "INGEST_ITEM",
    "INGEST_STREAM",
    "SEARCH_PICTURE",
    "SEARCH_SIMILAR",
    "SEARCH_TEXT",
    "SEARCH_TYPING",
    "names_of",
]

CONNECT = "Connect"
SEARCH_TYPING = "Search: typing"
SEARCH_TEXT = "Search: text"
SEARCH_SIMILAR = "Search: similar"
SEARCH_PICTURE = "Search: picture"
CLASSIFY = "Classify"
INGEST_ITEM = "Ingest: item"
INGEST_STREAM = "Ingest: stream"

_BY_KIND: Mapping[str, tuple[str, ...]] = {
    "search": (SEARCH_TYPING, SEARCH_TEXT, SEARCH_SIMILAR, SEARCH_PICTURE),
    "classify": (CLASSIFY,),
    "ingest": (INGEST_ITEM, INGEST_STREAM),
}


def names_of(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the requests that these kinds of users send; all of them begin with one to connect."""
    return (CONNECT, *(name for kind in kinds for name in _BY_KIND[kind]))
