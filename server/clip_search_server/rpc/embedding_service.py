"""EmbeddingService: texts and pictures to vectors."""

import asyncio
from typing import Any

from grpc import aio

from clip_search.v1 import content_pb2, embedding_pb2, embedding_pb2_grpc
from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.encoder import Encoder
from clip_search_server.errors import InternalError, InvalidArgumentError
from clip_search_server.limits import Limits
from clip_search_server.rpc.convert import content_from, urgency_of, vector_message
from clip_search_server.rpc.errors import status_of
from clip_search_server.search.catalog import Catalog
from clip_search_server.search.concurrency import run_together
from clip_search_server.search.content import embed_content

__all__ = ["EmbeddingService"]


class EmbeddingService(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Embeds without touching a collection."""

    def __init__(self, catalog: Catalog, limits: Limits) -> None:
        self._catalog = catalog
        self._limits = limits

    async def Embed(
        self, request: embedding_pb2.EmbedRequest, context: aio.ServicerContext[Any, Any]
    ) -> embedding_pb2.EmbedResponse:
        """Embed every input; one bad input never fails its neighbours."""
        if not 1 <= len(request.inputs) <= self._limits.items_per_request_max:
            raise InvalidArgumentError(
                "inputs", f"has {len(request.inputs)} entries; 1 to {self._limits.items_per_request_max} are accepted."
            )
        encoder = self._catalog.model(request.model)
        urgency = urgency_of(context).for_inputs(len(request.inputs))
        window = asyncio.Semaphore(self._limits.waiting_per_request)

        async def embed(number: int, content: content_pb2.Content) -> embedding_pb2.EmbedResult:
            async with window:
                return await _embed(number, content, encoder, urgency)

        results = await run_together(embed(number, content) for number, content in enumerate(request.inputs))
        return embedding_pb2.EmbedResponse(results=results, space_id=encoder.space_id)


async def _embed(
    number: int, message: content_pb2.Content, encoder: Encoder, urgency: Urgency
) -> embedding_pb2.EmbedResult:
    """Embed one input; what is wrong with the input is its result, what ails the server fails the call."""
    field = f"inputs[{number}]"
    try:
        vector = await embed_content(content_from(message, field), encoder, None, urgency, field=field)
    except (InvalidArgumentError, InternalError) as error:
        return embedding_pb2.EmbedResult(error=status_of(error))
    return embedding_pb2.EmbedResult(embedding=vector_message(vector))
