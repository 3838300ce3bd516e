"""Publishes generations of all collections, now or at intervals; knows nothing of what a generation holds.

Durability needs none of this: a generation makes the next start quick and tells how far the store must have come. Where
nothing was written since the last one, asking for a snapshot changes nothing.
"""

import asyncio
import logging

from clip_search_server.errors import ClipSearchError
from clip_search_server.search.catalog import Catalog

__all__ = ["snapshot_all", "snapshot_regularly"]

_LOG = logging.getLogger(__name__)


async def snapshot_all(catalog: Catalog) -> None:
    """Publish a generation of every collection; one that fails is logged and costs only a slower next start."""
    for collection in catalog.collections:
        try:
            await collection.snapshot()
        except ClipSearchError as error:
            _LOG.warning("no snapshot of collection %s: %s", collection.name, error)


async def snapshot_regularly(catalog: Catalog, interval_seconds: float) -> None:
    """Do so every `interval_seconds` until cancelled."""
    while True:
        await asyncio.sleep(interval_seconds)
        await snapshot_all(catalog)
