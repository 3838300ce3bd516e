"""Short ways to call a server."""

from collections.abc import Iterable
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from clip_search.v1 import (
    content_pb2,
    index_pb2,
    index_pb2_grpc,
    item_pb2,
    search_pb2,
    search_pb2_grpc,
)

SECONDS = 30.0


def text(words: str) -> content_pb2.Content:
    """A content of words."""
    return content_pb2.Content(text=words)


def image(data: bytes) -> content_pb2.Content:
    """A content of picture bytes."""
    return content_pb2.Content(image=data)


def vector(values: Iterable[float]) -> content_pb2.Content:
    """A content of a vector."""
    return content_pb2.Content(vector=content_pb2.Vector(values=values))


def stored(item_id: str) -> content_pb2.Content:
    """A content that is an item already."""
    return content_pb2.Content(item_id=item_id)


class Client:
    """The stubs of one channel with a deadline."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._search = search_pb2_grpc.SearchServiceStub(channel)
        self.index = index_pb2_grpc.IndexServiceStub(channel)

    def search(
        self, *parts: content_pb2.Content | search_pb2.QueryPart, **options: object
    ) -> search_pb2.SearchResponse:
        """Search for the sum of `parts`."""
        queried = [p if isinstance(p, search_pb2.QueryPart) else search_pb2.QueryPart(content=p) for p in parts]
        request = search_pb2.SearchRequest(parts=queried, **options)  # type: ignore[arg-type]
        return self._search.Search(request, timeout=SECONDS)

    def ids(self, *parts: content_pb2.Content | search_pb2.QueryPart, **options: object) -> list[str]:
        """Return the ids of the hits."""
        return [hit.id for hit in self.search(*parts, **options).hits]

    def classify(
        self, picture: content_pb2.Content, labels: list[str], **options: object
    ) -> search_pb2.ClassifyResponse:
        """Classify `picture`."""
        request = search_pb2.ClassifyRequest(image=picture, labels=labels, **options)  # type: ignore[arg-type]
        return self._search.Classify(request, timeout=SECONDS)

    def upsert(self, *items: item_pb2.Item) -> index_pb2.UpsertResponse:
        """Store items."""
        return self.index.Upsert(index_pb2.UpsertRequest(items=items), timeout=SECONDS)

    def delete(self, *ids: str) -> index_pb2.DeleteResponse:
        """Delete items."""
        return self.index.Delete(index_pb2.DeleteRequest(ids=index_pb2.Ids(ids=ids)), timeout=SECONDS)

    def ingest(self, requests: Iterable[index_pb2.IngestRequest]) -> list[item_pb2.ItemResult]:
        """Stream items and return all answers."""
        return [answer.result for answer in self.index.Ingest(iter(requests), timeout=SECONDS)]


def violated_field(error: grpc.RpcError) -> str:
    """Return the field that an INVALID_ARGUMENT names in its details."""
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    assert status is not None
    detail = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(detail)
    return str(detail.field_violations[0].field)


def health_within(address: str, service: str, status: str) -> None:
    """Return once the health of a service is `status`; fail where that takes longer than the deadline."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for answer in stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS):
            if health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) == status:
                return
    raise AssertionError(f"{service} did not become {status}")
