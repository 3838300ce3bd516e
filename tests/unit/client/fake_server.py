"""A server for the client's tests: the API's services with canned behaviour that a test can replace.

It stores items in a dictionary and finds them in the order of their ids; nothing is embedded. Every request is kept.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from clip_search.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    content_pb2,
    embedding_pb2,
    embedding_pb2_grpc,
    index_pb2,
    index_pb2_grpc,
    item_pb2,
    search_pb2,
    search_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
)

SPACE = "space-1"

IngestBehaviour = Callable[[Iterator[Any], Any], Iterator[Any]]


def invalid(message: str, field: str, description: str) -> status_pb2.Status:
    """Give a status that names a field."""
    detail = AnyMessage()
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
    detail.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    return status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=message, details=[detail])


def exhausted(message: str, retry_seconds: int) -> status_pb2.Status:
    """Give a status that says when to try again."""
    detail = AnyMessage()
    detail.Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=retry_seconds)))
    return status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message=message, details=[detail])


def stored(request: Any, sequence: int, *, replaced: bool = False) -> Any:
    """Answer one item of a stream as stored."""
    acknowledgement = item_pb2.Stored(sequence=sequence, replaced=replaced)
    result = item_pb2.ItemResult(index=request.index, id=request.item.id, stored=acknowledgement)
    return index_pb2.IngestResponse(result=result)


def refused(request: Any, status: status_pb2.Status) -> Any:
    """Answer one item of a stream with an error."""
    result = item_pb2.ItemResult(index=request.index, id=request.item.id, error=status)
    return index_pb2.IngestResponse(result=result)


class FakeServer(
    collection_pb2_grpc.CollectionServiceServicer,
    embedding_pb2_grpc.EmbeddingServiceServicer,
    index_pb2_grpc.IndexServiceServicer,
    search_pb2_grpc.SearchServiceServicer,
    server_pb2_grpc.ServerServiceServicer,
    health_pb2_grpc.HealthServicer,
):
    """All services on one free port of this machine."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None, address: str = "127.0.0.1:0") -> None:
        """Start; with credentials, TLS is wanted."""
        self.items: dict[str, Any] = {}
        self.collections: list[collection_pb2.Collection] = []
        self.models: list[server_pb2.ModelInfo] = []
        self.images: dict[str, bytes] = {}
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.stream_metadata: list[dict[str, Any]] = []
        self.fail_with: status_pb2.Status | None = None
        self.failures_left: int | None = None  # None: it fails for ever
        self.fail_only: type = object  # the kind of requests that fail
        self.trailers: tuple[tuple[str, str], ...] = ()  # of failures
        self.answer_after: threading.Event | None = None
        self.thumbnails_offered = True
        self.writes_per_stats = 0
        self.kept_images: index_pb2.KeptImages | None = None
        self.recall: index_pb2.RecallEstimate | None = None
        self.ingest_behaviour: IngestBehaviour = self.store_each
        self.status: int = health_pb2.HealthCheckResponse.SERVING
        self.limits = server_pb2.Limits(
            message_bytes_max=64 * 1024 * 1024, items_per_request_max=1_000, image_bytes_max=32 * 1024 * 1024
        )
        self.aliases: dict[str, str] = {}
        self._sequence = 0
        self._server = grpc.server(ThreadPoolExecutor(max_workers=4))
        collection_pb2_grpc.add_CollectionServiceServicer_to_server(self, self._server)
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(self, self._server)
        index_pb2_grpc.add_IndexServiceServicer_to_server(self, self._server)
        search_pb2_grpc.add_SearchServiceServicer_to_server(self, self._server)
        server_pb2_grpc.add_ServerServiceServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self, self._server)
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        """Stop at once, cancelling what is open."""
        if self.answer_after is not None:
            self.answer_after.set()
        self._server.stop(grace=None).wait()

    def sequence(self) -> int:
        """Give the next write's number."""
        self._sequence += 1
        return self._sequence

    def last(self, kind: type) -> Any:
        """Give the newest request of a kind."""
        return next(request for request in reversed(self.requests) if isinstance(request, kind))

    def _received(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.answer_after is not None:
            self.answer_after.wait(timeout=60)
        if self.fail_with is not None and self.failures_left != 0 and isinstance(request, self.fail_only):
            if self.failures_left is not None:
                self.failures_left -= 1
            status = rpc_status.to_status(self.fail_with)
            context.set_trailing_metadata((*self.trailers, *status.trailing_metadata))
            context.abort(status.code, status.details)

    # ── Search ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def Search(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Find every item, in order of ids, each scoring a little less."""
        self._received(request, context)
        ids = sorted(self.items)[: request.limit or 10]
        hits = [
            search_pb2.Hit(
                id=each,
                score=0.31 - 0.01 * rank,
                relevance=1 / (rank + 60) if request.ranking == search_pb2.RANKING_FUSED else None,
                attributes=self.items[each].attributes,
            )
            for rank, each in enumerate(ids)
        ]
        return search_pb2.SearchResponse(hits=hits, sequence=self._sequence, space_id=SPACE)

    def Classify(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Find each label a better match than the one before."""
        self._received(request, context)
        total = sum(range(1, len(request.labels) + 1))
        classifications = [
            search_pb2.Classification(label=label, probability=share / total, similarity=0.1 * share)
            for share, label in enumerate(request.labels, 1)
        ]
        return search_pb2.ClassifyResponse(
            classifications=classifications, scoring=search_pb2.SCORING_SOFTMAX, space_id=SPACE
        )

    def Embed(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Give the same vector for everything but `bad`, which is refused."""
        self._received(request, context)
        results = [
            embedding_pb2.EmbedResult(error=invalid("inputs[0].text: bad", "inputs[0].text", "bad"))
            if each.text == "bad"
            else embedding_pb2.EmbedResult(embedding=content_pb2.Vector(values=[0.6, 0.8, 0.0]))
            for each in request.inputs
        ]
        return embedding_pb2.EmbedResponse(results=results, space_id=SPACE)

    # ── Index ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def Upsert(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Store everything."""
        self._received(request, context)
        results = []
        for position, item in enumerate(request.items):
            acknowledgement = item_pb2.Stored(sequence=self.sequence(), replaced=item.id in self.items)
            results.append(item_pb2.ItemResult(index=position, id=item.id, stored=acknowledgement))
            self.items[item.id] = item
        return index_pb2.UpsertResponse(results=results, sequence=self._sequence)

    def Ingest(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Do what the test asks for."""
        self.stream_metadata.append(dict(context.invocation_metadata()))
        return self.ingest_behaviour(request_iterator, context)

    def store_each(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        """Store each item of a stream at once."""
        for request in requests:
            self.requests.append(request)
            replaced = request.item.id in self.items
            self.items[request.item.id] = request.item
            yield stored(request, self.sequence(), replaced=replaced)

    def Delete(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Delete what is there."""
        self._received(request, context)
        ids = self._matching(request.filter) if request.HasField("filter") else request.ids.ids
        deleted = sum(self.items.pop(each, None) is not None for each in ids)
        return index_pb2.DeleteResponse(deleted=deleted, sequence=self.sequence())

    def _matching(self, filter_: Any) -> list[str]:
        """Give the ids that a filter allows; this server knows two conditions: equals, and that an attribute exists."""
        if filter_.HasField("equals"):
            name, value = filter_.equals.attribute, filter_.equals.value
            return sorted(each for each, item in self.items.items() if item.attributes.get(name) == value)
        return sorted(each for each, item in self.items.items() if filter_.exists.attribute in item.attributes)

    def _stored_item(self, item: Any, *, vector: bool) -> Any:
        return item_pb2.StoredItem(
            id=item.id,
            attributes=item.attributes,
            text=item.text,
            vector=content_pb2.Vector(values=[0.6, 0.8]) if vector else None,
            has_thumbnail=bool(item.thumbnail),
            sequence=7,
        )

    def GetItems(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Give the items that are there."""
        self._received(request, context)
        found = [self.items[each] for each in request.ids if each in self.items]
        return index_pb2.GetItemsResponse(
            items=[self._stored_item(item, vector=request.include_vectors) for item in found],
            missing_ids=[each for each in request.ids if each not in self.items],
        )

    def ListItems(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Give a page; the token is the position of the next one."""
        self._received(request, context)
        ids = self._matching(request.filter) if request.HasField("filter") else sorted(self.items)
        start = int(request.page_token or 0)
        end = start + (request.page_size or 100)
        items = [self._stored_item(self.items[each], vector=False) for each in ids[start:end]]
        return index_pb2.ListItemsResponse(items=items, next_page_token=str(end) if end < len(ids) else "")

    def GetThumbnails(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Give the thumbnails that are there."""
        self._received(request, context)
        if not self.thumbnails_offered:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no thumbnails here")
        data = {each: self.items[each].thumbnail if each in self.items else b"" for each in request.ids}
        thumbnails = [
            index_pb2.Thumbnail(id=each, data=data[each], media_type="image/png" if data[each] else "")
            for each in request.ids
        ]
        return index_pb2.GetThumbnailsResponse(thumbnails=thumbnails)

    def GetImage(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Give the picture that a test put there."""
        self._received(request, context)
        if request.id not in self.images:
            context.abort(grpc.StatusCode.NOT_FOUND, "id: no picture is kept")
        return index_pb2.GetImageResponse(data=self.images[request.id])

    def GetStats(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Give figures with everything set, the recall where there is one."""
        self._received(request, context)
        self._sequence += self.writes_per_stats
        return index_pb2.GetStatsResponse(
            collection="default",
            space_id=SPACE,
            embedding_dim=3,
            items=len(self.items),
            distinct_vectors=len(self.items),
            segments=[index_pb2.SegmentStats(name="seg-1", rows=5, tombstones=1, bytes=2048)],
            snapshot=self._snapshot(),
            disk_bytes=3_000_000,
            recall=self.recall,
            sequence=self._sequence,
            kept_images=self.kept_images,
        )

    def CreateSnapshot(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Say that it is done."""
        self._received(request, context)
        return index_pb2.CreateSnapshotResponse(snapshot=self._snapshot())

    @staticmethod
    def _snapshot() -> Any:
        snapshot = index_pb2.SnapshotInfo(generation=4, sequence=9, segments=1, bytes=2048)
        snapshot.create_time.FromJsonString("2026-05-04T12:00:00Z")
        return snapshot

    # ── Collections ──────────────────────────────────────────────────────────────────────────────────────────────────

    def ListCollections(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Give those of the test; by default one that is whole and one that is not."""
        self._received(request, context)
        if self.collections:
            return collection_pb2.ListCollectionsResponse(collections=self.collections)
        whole = collection_pb2.Collection(
            name="default", space_id=SPACE, embedding_dim=3, items=len(self.items), aliases=sorted(self.aliases)
        )
        torn = collection_pb2.Collection(name="torn", space_id=SPACE, unusable_reason="its store is damaged")
        return collection_pb2.ListCollectionsResponse(collections=[whole, torn])

    def CreateCollection(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Say that it is there."""
        self._received(request, context)
        created = collection_pb2.Collection(name=request.collection, space_id=SPACE, embedding_dim=3)
        return collection_pb2.CreateCollectionResponse(collection=created)

    def DeleteCollection(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Say that it is gone."""
        self._received(request, context)
        return collection_pb2.DeleteCollectionResponse()

    def SetAlias(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Remember it, or forget it."""
        self._received(request, context)
        previous = self.aliases.pop(request.alias, "")
        if request.collection:
            self.aliases[request.alias] = request.collection
        return collection_pb2.SetAliasResponse(previous_collection=previous)

    # ── The server itself ────────────────────────────────────────────────────────────────────────────────────────────

    def GetServerInfo(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Say what it is."""
        self._received(request, context)
        model = server_pb2.ModelInfo(name="toy", space_id=SPACE, embedding_dim=3, licence="Apache-2.0", is_default=True)
        return server_pb2.GetServerInfoResponse(version="0.1.0", models=self.models or [model], limits=self.limits)

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Say whether it is ready."""
        return health_pb2.HealthCheckResponse(status=self.status)
