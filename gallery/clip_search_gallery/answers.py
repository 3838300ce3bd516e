"""What was found, as the JSON that the page reads; and the address of an item's picture. Asks nobody for anything.

A picture's address holds a version, made from everything that decides which picture an item shows: so what lies behind
an address with a content digest never changes, and browsers may keep it for good.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from clip_search.results import Attribute, Hit, ServerInfo, Stats, StoredItem

__all__ = [
    "found_document",
    "is_lasting",
    "item_document",
    "items_document",
    "picture_address",
    "status_document",
    "version_of",
]

_VERSION_BYTES = 9
_LASTING, _PASSING = "d", "s"
#: JavaScript's numbers are exact up to here; larger ones are sent as text.
_EXACT_MAX = 2**53 - 1


def version_of(collection: str, item: StoredItem) -> str:
    """Give the version of an item's pictures: another write, another version."""
    facts = (collection, item.id, str(item.sequence), item.content_digest.hex())
    digest = hashlib.blake2b("\0".join(facts).encode("utf-8", "replace"), digest_size=_VERSION_BYTES).hexdigest()
    return (_LASTING if item.content_digest else _PASSING) + digest


def is_lasting(version: str) -> bool:
    """Tell whether what is behind a version never changes: whether a digest of the content is in it."""
    return version.startswith(_LASTING)


def picture_address(kind: str, version: str, item_id: str) -> str:
    """Give the address of an item's picture; `kind` is `small` or `whole`."""
    return f"/pictures/{kind}/{version}?id={quote(item_id, safe='')}"


def item_document(collection: str, item: StoredItem, hit: Hit | None = None) -> dict[str, Any]:
    """Describe an item, and how well it matches if it was searched for."""
    version = version_of(collection, item)
    document: dict[str, Any] = {
        "id": item.id,
        "title": _title(item),
        "attributes": {name: _attribute(value) for name, value in sorted(item.attributes.items())},
        "small": picture_address("small", version, item.id),
        "whole": picture_address("whole", version, item.id),
    }
    if item.text:
        document["text"] = item.text
    if hit is not None:
        document["score"] = hit.score
        if hit.relevance is not None:
            document["relevance"] = hit.relevance
    return document


def found_document(
    collection: str, hits: Iterable[Hit], stored: Mapping[str, StoredItem], *, following: str, search_ms: float
) -> dict[str, Any]:
    """Describe one page of hits; those deleted since are left out."""
    tiles = [item_document(collection, stored[hit.id], hit) for hit in hits if hit.id in stored]
    return {"items": tiles, "next": following, "search_ms": round(search_ms, 2)}


def items_document(collection: str, items: Iterable[StoredItem], *, following: str) -> dict[str, Any]:
    """Describe one page of a listing."""
    return {"items": [item_document(collection, item) for item in items], "next": following}


def status_document(stats: Stats, info: ServerInfo) -> dict[str, Any]:
    """Describe a collection and its server."""
    models = [model for model in info.models if model.space_id == stats.space_id]
    return {
        "collection": stats.collection,
        "items": stats.items,
        "segments": len(stats.segments),
        "tail_rows": stats.tail_rows,
        "recall": None if stats.recall is None else {"share": stats.recall.recall, "queries": stats.recall.queries},
        "memory_bytes": stats.memory_bytes,
        "disk_bytes": stats.disk_bytes,
        "sequence": stats.sequence,
        "dimensions": stats.embedding_dim,
        "model": next(({"name": m.name, "source": m.source, "precision": m.precision} for m in models), None),
        "version": info.version,
        "image_bytes_max": info.limits.image_bytes_max,
    }


def _title(item: StoredItem) -> str:
    """Give the words under a picture: its caption, else the name of its file without the ending, else of its id."""
    for name in ("title", "caption"):
        value = item.attributes.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    file_name = item.attributes.get("file_name")
    return PurePosixPath(file_name if isinstance(file_name, str) and file_name else item.id).stem or item.id


def _attribute(value: Attribute) -> Any:  # noqa: ANN401  # any JSON value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float) and value in {float("inf"), float("-inf")}:
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _EXACT_MAX:
        return str(value)
    return value
