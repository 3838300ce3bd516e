"""CollectionService: this release has the `default` collection alone, so only listing is served."""

from typing import Any

from grpc import aio

from clip_search.v1 import collection_pb2, collection_pb2_grpc
from clip_search_server.errors import UnimplementedError
from clip_search_server.search.catalog import Catalog

__all__ = ["CollectionService"]

_ONE_COLLECTION = "this release serves the one collection 'default'."

_Context = aio.ServicerContext[Any, Any]


class CollectionService(collection_pb2_grpc.CollectionServiceServicer):
    """Lists collections."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def ListCollections(
        self, request: collection_pb2.ListCollectionsRequest, context: _Context
    ) -> collection_pb2.ListCollectionsResponse:
        """List every collection."""
        collections = []
        for collection in self._catalog.collections.values():
            stats = await collection.stats()
            collections.append(
                collection_pb2.Collection(
                    name=collection.name,
                    space_id=collection.space_id,
                    embedding_dim=collection.dim,
                    items=stats.item_count,
                )
            )
        return collection_pb2.ListCollectionsResponse(collections=collections)

    async def CreateCollection(
        self, request: collection_pb2.CreateCollectionRequest, context: _Context
    ) -> collection_pb2.CreateCollectionResponse:
        """Refuse: not part of this release."""
        raise UnimplementedError(f"CreateCollection: {_ONE_COLLECTION}")

    async def DeleteCollection(
        self, request: collection_pb2.DeleteCollectionRequest, context: _Context
    ) -> collection_pb2.DeleteCollectionResponse:
        """Refuse: not part of this release."""
        raise UnimplementedError(f"DeleteCollection: {_ONE_COLLECTION}")

    async def SetAlias(
        self, request: collection_pb2.SetAliasRequest, context: _Context
    ) -> collection_pb2.SetAliasResponse:
        """Refuse: not part of this release."""
        raise UnimplementedError(f"SetAlias: {_ONE_COLLECTION}")
