"""The search client: `Client` and `AsyncClient`, the programs `search_client` and `clip-search`, the protocol's stubs.

    from clip_search import Client

    with Client("localhost:50051") as client:
        print(client.search("a red bicycle").hits)

This package talks to a server through the public protocol alone. It knows nothing about models, indexes or files on
the server's side, and importing it never imports the server, the exporter or an inference runtime. What it offers is
imported when it is first used, so that `import clip_search` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_search.async_client import AsyncClient
    from clip_search.client import Client
    from clip_search.contents import Image, Item, ItemId, Part, Text, Vector
    from clip_search.credentials import TlsOptions
    from clip_search.errors import ClipSearchError
    from clip_search.filter_text import parse_filter
    from clip_search.filters import Attribute
    from clip_search.ingest import IngestBounds
    from clip_search.resuming import ResumePolicy
    from clip_search.retries import RetryPolicy

__all__ = [
    "AsyncClient",
    "Attribute",
    "Client",
    "ClipSearchError",
    "Image",
    "IngestBounds",
    "Item",
    "ItemId",
    "Part",
    "ResumePolicy",
    "RetryPolicy",
    "Text",
    "TlsOptions",
    "Vector",
    "__version__",
    "parse_filter",
]

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "async_client",
    "Attribute": "filters",
    "Client": "client",
    "ClipSearchError": "errors",
    "Image": "contents",
    "IngestBounds": "ingest",
    "Item": "contents",
    "ItemId": "contents",
    "Part": "contents",
    "ResumePolicy": "resuming",
    "RetryPolicy": "retries",
    "Text": "contents",
    "TlsOptions": "credentials",
    "Vector": "contents",
    "parse_filter": "filter_text",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # whatever the name stands for
    """Import what is asked for by its name (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
