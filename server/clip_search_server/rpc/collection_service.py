"""CollectionService: creating, listing and deleting collections, and their aliases."""

from typing import Any

from grpc import aio

from clip_search.v1 import collection_pb2, collection_pb2_grpc
from clip_search_server.search.catalog import Catalog, CollectionInfo

__all__ = ["CollectionService"]

_Context = aio.ServicerContext[Any, Any]


class CollectionService(collection_pb2_grpc.CollectionServiceServicer):
    """Manages collections."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def CreateCollection(
        self, request: collection_pb2.CreateCollectionRequest, context: _Context
    ) -> collection_pb2.CreateCollectionResponse:
        """Create an empty collection for one model's space."""
        created = await self._catalog.create(request.collection, request.model)
        return collection_pb2.CreateCollectionResponse(collection=_message(created))

    async def ListCollections(
        self, request: collection_pb2.ListCollectionsRequest, context: _Context
    ) -> collection_pb2.ListCollectionsResponse:
        """List every collection, by name in byte order; one that cannot be used shows no items."""
        listed = await self._catalog.listing()
        return collection_pb2.ListCollectionsResponse(collections=[_message(info) for info in listed])

    async def DeleteCollection(
        self, request: collection_pb2.DeleteCollectionRequest, context: _Context
    ) -> collection_pb2.DeleteCollectionResponse:
        """Delete a collection and everything in it."""
        await self._catalog.delete(request.collection)
        return collection_pb2.DeleteCollectionResponse()

    async def SetAlias(
        self, request: collection_pb2.SetAliasRequest, context: _Context
    ) -> collection_pb2.SetAliasResponse:
        """Point an alias at a collection, or remove it."""
        previous = await self._catalog.set_alias(request.alias, request.collection)
        return collection_pb2.SetAliasResponse(previous_collection=previous)


def _message(info: CollectionInfo) -> collection_pb2.Collection:
    return collection_pb2.Collection(
        name=info.name,
        space_id=info.space_id,
        embedding_dim=info.dim if info.damage is None else 0,
        items=info.items,
        aliases=info.aliases,
        unusable_reason=info.unusable or "",
    )
