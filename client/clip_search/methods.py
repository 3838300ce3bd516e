"""The methods of the API: where each is called, with which messages, and whether it may be sent twice.

`repeatable` methods are sent again by gRPC when the server could not take them (`retries.py`): after them the server
holds the same whether they arrived once or twice. Another client's write that came between the two is overtaken, as it
would be by a single one that came a moment later. It knows nothing of connections, deadlines or what requests mean.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from clip_search.v1 import collection_pb2, embedding_pb2, index_pb2, search_pb2, server_pb2

__all__ = [
    "CHECK_HEALTH",
    "CLASSIFY",
    "CREATE_COLLECTION",
    "CREATE_SNAPSHOT",
    "DELETE",
    "DELETE_COLLECTION",
    "EMBED",
    "GET_IMAGE",
    "GET_ITEMS",
    "GET_SERVER_INFO",
    "GET_STATS",
    "GET_THUMBNAILS",
    "INGEST",
    "LIST_COLLECTIONS",
    "LIST_ITEMS",
    "METHODS",
    "SEARCH",
    "SET_ALIAS",
    "UPSERT",
    "Method",
]

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Response]):
    """One method: `service` with its package, `name`, and the messages that go and come."""

    service: str
    name: str
    request: type[Request]
    response: type[Response]
    repeatable: bool

    @property
    def path(self) -> str:
        """How gRPC addresses it."""
        return f"/{self.service}/{self.name}"


_SEARCH_SERVICE = "clip_search.v1.SearchService"
_INDEX_SERVICE = "clip_search.v1.IndexService"
_COLLECTION_SERVICE = "clip_search.v1.CollectionService"

SEARCH = Method(_SEARCH_SERVICE, "Search", search_pb2.SearchRequest, search_pb2.SearchResponse, repeatable=True)
CLASSIFY = Method(_SEARCH_SERVICE, "Classify", search_pb2.ClassifyRequest, search_pb2.ClassifyResponse, repeatable=True)
EMBED = Method(
    "clip_search.v1.EmbeddingService",
    "Embed",
    embedding_pb2.EmbedRequest,
    embedding_pb2.EmbedResponse,
    repeatable=True,
)

# The same items under the same ids replace themselves; only `replaced` may then say so.
UPSERT = Method(_INDEX_SERVICE, "Upsert", index_pb2.UpsertRequest, index_pb2.UpsertResponse, repeatable=True)
# gRPC cannot know which items of a stream were answered; `ingest.py` does.
INGEST = Method(_INDEX_SERVICE, "Ingest", index_pb2.IngestRequest, index_pb2.IngestResponse, repeatable=False)
# What is gone stays gone, by ids and by filter; only `deleted` may then count too few.
DELETE = Method(_INDEX_SERVICE, "Delete", index_pb2.DeleteRequest, index_pb2.DeleteResponse, repeatable=True)
GET_ITEMS = Method(_INDEX_SERVICE, "GetItems", index_pb2.GetItemsRequest, index_pb2.GetItemsResponse, repeatable=True)
LIST_ITEMS = Method(
    _INDEX_SERVICE, "ListItems", index_pb2.ListItemsRequest, index_pb2.ListItemsResponse, repeatable=True
)
GET_THUMBNAILS = Method(
    _INDEX_SERVICE, "GetThumbnails", index_pb2.GetThumbnailsRequest, index_pb2.GetThumbnailsResponse, repeatable=True
)
GET_IMAGE = Method(_INDEX_SERVICE, "GetImage", index_pb2.GetImageRequest, index_pb2.GetImageResponse, repeatable=True)
GET_STATS = Method(_INDEX_SERVICE, "GetStats", index_pb2.GetStatsRequest, index_pb2.GetStatsResponse, repeatable=True)
# With nothing new, the server gives the generation that is there.
CREATE_SNAPSHOT = Method(
    _INDEX_SERVICE, "CreateSnapshot", index_pb2.CreateSnapshotRequest, index_pb2.CreateSnapshotResponse, repeatable=True
)

LIST_COLLECTIONS = Method(
    _COLLECTION_SERVICE,
    "ListCollections",
    collection_pb2.ListCollectionsRequest,
    collection_pb2.ListCollectionsResponse,
    repeatable=True,
)
# The second of two would find the name taken by the first,
CREATE_COLLECTION = Method(
    _COLLECTION_SERVICE,
    "CreateCollection",
    collection_pb2.CreateCollectionRequest,
    collection_pb2.CreateCollectionResponse,
    repeatable=False,
)
# or gone,
DELETE_COLLECTION = Method(
    _COLLECTION_SERVICE,
    "DeleteCollection",
    collection_pb2.DeleteCollectionRequest,
    collection_pb2.DeleteCollectionResponse,
    repeatable=False,
)
# or would answer that the alias was before where it is now, and the way back were lost.
SET_ALIAS = Method(
    _COLLECTION_SERVICE,
    "SetAlias",
    collection_pb2.SetAliasRequest,
    collection_pb2.SetAliasResponse,
    repeatable=False,
)

GET_SERVER_INFO = Method(
    "clip_search.v1.ServerService",
    "GetServerInfo",
    server_pb2.GetServerInfoRequest,
    server_pb2.GetServerInfoResponse,
    repeatable=True,
)
# It asks how the server is now, not how it is after a while.
CHECK_HEALTH = Method(
    "grpc.health.v1.Health",
    "Check",
    health_pb2.HealthCheckRequest,
    health_pb2.HealthCheckResponse,
    repeatable=False,
)

METHODS = (
    SEARCH,
    CLASSIFY,
    EMBED,
    UPSERT,
    INGEST,
    DELETE,
    GET_ITEMS,
    LIST_ITEMS,
    GET_THUMBNAILS,
    GET_IMAGE,
    GET_STATS,
    CREATE_SNAPSHOT,
    LIST_COLLECTIONS,
    CREATE_COLLECTION,
    DELETE_COLLECTION,
    SET_ALIAS,
    GET_SERVER_INFO,
    CHECK_HEALTH,
)
