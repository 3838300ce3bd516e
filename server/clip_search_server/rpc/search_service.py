"""SearchService: items by meaning, and which words fit a picture."""

from typing import Any

from grpc import aio

from clip_search.v1 import search_pb2, search_pb2_grpc
from clip_search_server.errors import InvalidArgumentError
from clip_search_server.limits import Limits
from clip_search_server.rpc.convert import content_from, hit_message, query_from, urgency_of
from clip_search_server.rpc.pieces import in_pieces
from clip_search_server.search.catalog import Catalog
from clip_search_server.search.classification import classify
from clip_search_server.search.collection import AsyncCollection
from clip_search_server.search.query import search

__all__ = ["SearchService"]


class SearchService(search_pb2_grpc.SearchServiceServicer):
    """Reads collections by meaning."""

    def __init__(self, catalog: Catalog, limits: Limits) -> None:
        self._catalog = catalog
        self._limits = limits

    async def Search(
        self, request: search_pb2.SearchRequest, context: aio.ServicerContext[Any, Any]
    ) -> search_pb2.SearchResponse:
        """Find the items nearest to a query."""
        collection, encoder = self._catalog.pair(request.collection, request.model)
        found = await search(query_from(request), collection, encoder, self._limits, urgency_of(context))
        return search_pb2.SearchResponse(
            hits=await in_pieces(lambda hit: hit_message(hit, include_vector=request.include_vectors), found.hits),
            sequence=found.sequence,
            space_id=collection.space_id,
        )

    async def Classify(
        self, request: search_pb2.ClassifyRequest, context: aio.ServicerContext[Any, Any]
    ) -> search_pb2.ClassifyResponse:
        """Tell how well each label fits a picture."""
        if not request.HasField("image"):
            raise InvalidArgumentError("image", "is unset; send an image, a vector or an item id.")
        collection: AsyncCollection | None = None
        if request.image.HasField("item_id"):
            collection, encoder = self._catalog.pair(request.collection, request.model)
        else:
            encoder = self._catalog.model(request.model)
        result = await classify(
            content_from(request.image, "image"),
            request.labels,
            request.templates,
            collection=collection,
            encoder=encoder,
            limits=self._limits,
            urgency=urgency_of(context),
        )
        rows = zip(request.labels, result.probabilities.tolist(), result.similarities.tolist(), strict=True)
        return search_pb2.ClassifyResponse(
            classifications=[
                search_pb2.Classification(label=label, probability=probability, similarity=similarity)
                for label, probability, similarity in rows
            ],
            scoring=search_pb2.SCORING_SIGMOID if result.independent else search_pb2.SCORING_SOFTMAX,
            space_id=encoder.space_id,
        )
