"""A small synchronous client: typed calls of the API over one connection.

Every call has a deadline, and every failure is one of the exceptions in `errors.py`. It knows nothing of files,
terminals or how results are shown, and it repeats no call on its own.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Literal, Self, TypeVar

import grpc
from grpc_health.v1 import health_pb2

from clip_search import conversion
from clip_search.contents import Content, Image, Item, ItemId, Part, Text, Vector
from clip_search.defaults import DEFAULT_SERVER, DEFAULT_TIMEOUT_SECONDS
from clip_search.errors import ClipSearchError
from clip_search.filter_messages import filter_message
from clip_search.filters import Filter
from clip_search.ingest import Ingest, IngestBounds
from clip_search.results import (
    Classifications,
    Collection,
    Deletion,
    Embeddings,
    ItemOutcome,
    ItemPage,
    ItemsFound,
    SearchResults,
    ServerInfo,
    Snapshot,
    Stats,
    StoredItem,
    Thumbnail,
)
from clip_search.statuses import error_from_call
from clip_search.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    index_pb2,
    index_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
)

__all__ = ["MESSAGE_BYTES_MAX", "Client", "Ranking"]

Ranking = Literal["vector", "text", "fused"]

# The server's default for `Limits.message_bytes_max`.
MESSAGE_BYTES_MAX = 64 * 1024 * 1024

# The server's default for `Limits.items_per_request_max`.
_IDS_PER_REQUEST = 1_000

# At the default of 256 KiB a thumbnail, this many stay below MESSAGE_BYTES_MAX.
_THUMBNAILS_PER_REQUEST = 200

# A silent connection is probed now and then while calls are open, so that a dead peer is noticed. gRPC servers that
# are not told otherwise end connections that probe more often than every 5 minutes.
_KEEPALIVE_MS = 5 * 60 * 1000
_KEEPALIVE_TIMEOUT_MS = 20 * 1000

_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\]):\d+")

_RANKINGS: "dict[Ranking, search_pb2.Ranking.ValueType]" = {
    "vector": search_pb2.RANKING_VECTOR,
    "text": search_pb2.RANKING_TEXT,
    "fused": search_pb2.RANKING_FUSED,
}

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client:
    """A connection to one server, for use from any number of threads. Nothing is sent before the first call.

    Every method raises `ClipSearchError` as `errors.py` describes: `UnreachableError` when nothing answers at the
    address, `DeadlineExceededError` when no answer comes in time, and what the API documents for the call.

    Args:
        server: its address, HOST:PORT.
        collection: which collection calls are about; empty means `default`.
        model: which model embeds; empty means the one of the collection's space, and where no collection takes part the
            server's default one.
        timeout_seconds: deadline of each call. A stream has none, but ends when nothing is answered for so long.
        message_bytes_max: bound on one message, either way.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        collection: str = "",
        model: str = "",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        self.server = server
        self.timeout_seconds = timeout_seconds
        self._collection = collection
        self._model = model
        self._channel = grpc.insecure_channel(server, options=_channel_options(server, message_bytes_max))
        self._collections = collection_pb2_grpc.CollectionServiceStub(self._channel)
        self._embedding = embedding_pb2_grpc.EmbeddingServiceStub(self._channel)
        self._health_check = self._channel.unary_unary(  # the package's own stub is not typed
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        self._index = index_pb2_grpc.IndexServiceStub(self._channel)
        self._search = search_pb2_grpc.SearchServiceStub(self._channel)
        self._server = server_pb2_grpc.ServerServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls that are still open are cancelled."""
        self._channel.close()

    # ── Searching ────────────────────────────────────────────────────────────────────────────────────────────────────

    def search(
        self,
        query: str | Content | Sequence[Part],
        *,
        limit: int = 10,
        offset: int = 0,
        filter: Filter | None = None,  # noqa: A002  # the API's word
        ranking: Ranking = "vector",
        exact: bool = False,
        min_score: float | None = None,
        include_vectors: bool = False,
    ) -> SearchResults:
        """Find the items closest to a text, to another content, or to weighted parts of both.

        Args:
            query: what to look for; the query vector is normalize(Σ weightᵢ · embeddingᵢ) over the parts.
            limit: how many hits at most.
            offset: how many of the best hits to skip.
            filter: only items that match, see `filters.py`.
            ranking: `vector` by score; `text` by how well the items' texts match the words of the query, which then
                consists of texts alone; `fused` by both.
            exact: compare with every item instead of using the approximate index.
            min_score: only hits with at least this cosine.
            include_vectors: give the hits' vectors too.
        """
        request = search_pb2.SearchRequest(
            collection=self._collection,
            model=self._model,
            parts=[conversion.part_message(part) for part in _parts(query)],
            limit=limit,
            offset=offset,
            filter=None if filter is None else filter_message(filter),
            ranking=_RANKINGS[ranking],
            exact=exact,
            min_score=min_score,
            include_vectors=include_vectors,
        )
        return conversion.search_results_of(self._unary(self._search.Search, request))

    def classify(self, image: Content, labels: Sequence[str], templates: Sequence[str] = ()) -> Classifications:
        """Tell how well each label fits an image.

        Args:
            image: a picture, a vector or the id of an item.
            labels: different and not empty.
            templates: sentences with a `{}` for the label, all of which each label is averaged over; none means the
                label alone.
        """
        request = search_pb2.ClassifyRequest(
            collection=self._collection,
            model=self._model,
            image=conversion.content_message(image),
            labels=labels,
            templates=templates,
        )
        return conversion.classifications_of(self._unary(self._search.Classify, request))

    def embed(self, inputs: Iterable[Content]) -> Embeddings:
        """Embed texts and images without storing anything; each input has its own outcome."""
        messages = [conversion.content_message(each) for each in inputs]
        request = embedding_pb2.EmbedRequest(model=self._model, inputs=messages)
        return conversion.embeddings_of(self._unary(self._embedding.Embed, request))

    # ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def upsert(self, items: Iterable[Item]) -> tuple[ItemOutcome, ...]:
        """Store some items in one request, each replacing the item of the same id; outcomes come in their order."""
        messages = [conversion.item_message(item) for item in items]
        request = index_pb2.UpsertRequest(collection=self._collection, model=self._model, items=messages)
        return tuple(conversion.outcome_of(result) for result in self._unary(self._index.Upsert, request).results)

    def ingest(self, items: Iterable[Item], bounds: IngestBounds | None = None) -> Ingest:
        """Store a stream of items of any length with bounded memory.

        Args:
            items: what to store; drawn in another thread, as room permits.
            bounds: what may be in flight; by default `IngestBounds` with this client's deadline.

        Returns:
            A context manager to iterate over: `with client.ingest(items) as outcomes: for outcome in outcomes: ...`.
        """
        bounds = bounds or IngestBounds(idle_seconds_max=self.timeout_seconds)
        return Ingest(
            self._index.Ingest,
            items,
            collection=self._collection,
            model=self._model,
            bounds=bounds,
            explain=self._explain,
        )

    def delete(self, ids: Iterable[str]) -> Deletion:
        """Delete items by id, whether they are there or not; of more than 1,000 ids, some may go before others."""
        deletion = Deletion(0, 0)
        for chunk in _chunks(ids, _IDS_PER_REQUEST):
            request = index_pb2.DeleteRequest(collection=self._collection, ids=index_pb2.Ids(ids=chunk))
            response = self._unary(self._index.Delete, request)
            deletion = Deletion(deletion.deleted + response.deleted, response.sequence)
        return deletion

    def delete_matching(self, filter: Filter) -> Deletion:  # noqa: A002  # the API's word
        """Delete every item that matches; of very many, some may go before others."""
        request = index_pb2.DeleteRequest(collection=self._collection, filter=filter_message(filter))
        response = self._unary(self._index.Delete, request)
        return Deletion(response.deleted, response.sequence)

    def snapshot(self) -> Snapshot:
        """Publish a generation of the index, from which the server's next start is quick."""
        request = index_pb2.CreateSnapshotRequest(collection=self._collection)
        return conversion.snapshot_of(self._unary(self._index.CreateSnapshot, request).snapshot)

    # ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def get_items(self, ids: Iterable[str], *, include_vectors: bool = False) -> ItemsFound:
        """Read items by id."""
        found: list[StoredItem] = []
        missing: list[str] = []
        for chunk in _chunks(ids, _IDS_PER_REQUEST):
            request = index_pb2.GetItemsRequest(collection=self._collection, ids=chunk, include_vectors=include_vectors)
            response = self._unary(self._index.GetItems, request)
            found += (conversion.stored_item_of(item) for item in response.items)
            missing += response.missing_ids
        return ItemsFound(tuple(found), tuple(missing))

    def list_items(
        self,
        *,
        page_size: int = 100,
        page_token: str = "",
        filter: Filter | None = None,  # noqa: A002  # the API's word
        include_vectors: bool = False,
    ) -> ItemPage:
        """Read one page of all items, or of those that match, in byte order of their ids.

        `page_token` comes from the page before.
        """
        request = index_pb2.ListItemsRequest(
            collection=self._collection,
            page_size=page_size,
            page_token=page_token,
            filter=None if filter is None else filter_message(filter),
            include_vectors=include_vectors,
        )
        response = self._unary(self._index.ListItems, request)
        return ItemPage(tuple(map(conversion.stored_item_of, response.items)), response.next_page_token)

    def thumbnails(self, ids: Iterable[str]) -> Iterator[Thumbnail]:
        """Read the thumbnails stored with items, one for each id in order, empty where there is none."""
        for chunk in _chunks(ids, _THUMBNAILS_PER_REQUEST):
            request = index_pb2.GetThumbnailsRequest(collection=self._collection, ids=chunk)
            for thumbnail in self._unary(self._index.GetThumbnails, request).thumbnails:
                yield Thumbnail(thumbnail.id, thumbnail.data, thumbnail.media_type)

    def image(self, item_id: str) -> bytes:
        """Read the picture that an item was made from; raises `NotFoundError` where the server keeps none of it."""
        request = index_pb2.GetImageRequest(collection=self._collection, id=item_id)
        return self._unary(self._index.GetImage, request).data

    def stats(self) -> Stats:
        """Tell how large the collection is and what it is made of."""
        request = index_pb2.GetStatsRequest(collection=self._collection)
        return conversion.stats_of(self._unary(self._index.GetStats, request))

    # ── Collections ──────────────────────────────────────────────────────────────────────────────────────────────────

    def create_collection(self, name: str) -> Collection:
        """Create an empty collection for the space of this client's model; raises `AlreadyExistsError`."""
        request = collection_pb2.CreateCollectionRequest(collection=name, model=self._model)
        return conversion.collection_of(self._unary(self._collections.CreateCollection, request).collection)

    def list_collections(self) -> tuple[Collection, ...]:
        """List all collections with their aliases, by name in byte order."""
        response = self._unary(self._collections.ListCollections, collection_pb2.ListCollectionsRequest())
        return tuple(map(conversion.collection_of, response.collections))

    def delete_collection(self, name: str) -> None:
        """Delete a collection and everything in it, for ever; no alias may point at it."""
        self._unary(self._collections.DeleteCollection, collection_pb2.DeleteCollectionRequest(collection=name))

    def set_alias(self, alias: str, collection: str) -> str:
        """Point an alias at a collection, atomically; return what it pointed at before, or an empty text."""
        request = collection_pb2.SetAliasRequest(alias=alias, collection=collection)
        return self._unary(self._collections.SetAlias, request).previous_collection

    def remove_alias(self, alias: str) -> str:
        """Remove an alias, whether it is there or not; return what it pointed at, or an empty text."""
        return self.set_alias(alias, "")

    # ── The server itself ────────────────────────────────────────────────────────────────────────────────────────────

    def server_info(self) -> ServerInfo:
        """Tell the server's version, models, devices and limits."""
        return conversion.server_info_of(self._unary(self._server.GetServerInfo, server_pb2.GetServerInfoRequest()))

    def health(self, service: str = "") -> str:
        """Tell whether a service, or with an empty name the whole server, is ready: `SERVING` or `NOT_SERVING`, say."""
        response = self._unary(self._health_check, health_pb2.HealthCheckRequest(service=service))
        return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)

    # ── Calls ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _unary(self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request) -> _Response:
        try:
            return method(request, timeout=self.timeout_seconds)
        except grpc.RpcError as error:
            raise self._explain(error) from error

    def _explain(self, error: grpc.RpcError) -> ClipSearchError:
        return error_from_call(error, server=self.server, timeout_seconds=self.timeout_seconds)


def _channel_options(server: str, message_bytes_max: int) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ]
    if _LOOPBACK.fullmatch(server):  # a proxy set for the outside world cannot reach this machine's own ports
        options.append(("grpc.enable_http_proxy", 0))
    return options


def _parts(query: str | Content | Sequence[Part]) -> Sequence[Part]:
    if isinstance(query, str):
        return [Part(Text(query))]
    if isinstance(query, Text | Image | Vector | ItemId):
        return [Part(query)]
    return query


def _chunks(ids: Iterable[str], size: int) -> Iterator[list[str]]:
    """Cut ids into lists of at most `size`; no ids are one empty list, which the server refuses by name."""
    every = list(ids)
    for start in range(0, max(len(every), 1), size):
        yield every[start : start + size]
