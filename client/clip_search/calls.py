"""What can be asked of a server: requests built, answers read, each written once for both clients; sends nothing.

A call is a generator. It gives an `Ask`, is handed the response, and returns the result; one that needs several
requests gives several. `Client` and `AsyncClient` carry them out, each in its own way. So whatever is told here of
arguments and results holds for both; with `AsyncClient`, calls are awaited and iterated over with `async for`.

In the examples, which a test runs, `client` is a `Client` of a server that holds three items made of their texts:
`fruit/apple` ("a red apple", year 2019), `fruit/pear` ("a green pear", 2024) and `sea/whale` ("a whale", 2024).
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from clip_search import conversion, methods
from clip_search.contents import Content, Image, Item, ItemId, Part, Text, Vector
from clip_search.filter_messages import filter_message
from clip_search.filters import Filter
from clip_search.methods import Method
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
from clip_search.v1 import collection_pb2, embedding_pb2, index_pb2, search_pb2, server_pb2

__all__ = ["Ask", "Calls", "Ranking", "Steps"]

Ranking = Literal["vector", "text", "fused"]

# The server's default for `Limits.items_per_request_max` and for `Limits.page_size_max`.
_IDS_PER_REQUEST = 1_000
_PAGE_SIZE = 1_000

# At the default of 256 KiB a thumbnail, this many stay below the default bound of a message.
_THUMBNAILS_PER_REQUEST = 200

_RANKINGS: "dict[Ranking, search_pb2.Ranking.ValueType]" = {
    "vector": search_pb2.RANKING_VECTOR,
    "text": search_pb2.RANKING_TEXT,
    "fused": search_pb2.RANKING_FUSED,
}

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to be sent; its response is what the generator wants to have."""

    method: Method[Any, Any]
    request: Message


Steps: TypeAlias = Generator[Ask, Any, _Result]


def _ask(method: Method[_Request, _Response], request: _Request) -> Steps[_Response]:
    response: _Response = yield Ask(method, request)
    return response


class Calls:
    """The calls of a client about one collection and one model."""

    def __init__(self, collection: str, model: str) -> None:
        self.collection = collection
        self.model = model

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
    ) -> Steps[SearchResults]:
        """Find the items closest to a text, to another content, or to weighted parts of both.

        >>> for hit in client.search("a red apple", limit=1).hits:
        ...     print(f"{hit.score:.2f} {hit.id}")
        1.00 fruit/apple

        >>> from clip_search.contents import ItemId, Part, Text
        >>> from clip_search.filters import Attribute
        >>> like_an_apple = [Part(ItemId("fruit/apple")), Part(Text("red"), -0.5)]
        >>> [hit.id for hit in client.search(like_an_apple, limit=1, filter=Attribute("year") >= 2024).hits]
        ['fruit/pear']

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
            collection=self.collection,
            model=self.model,
            parts=[conversion.part_message(part) for part in _parts(query)],
            limit=limit,
            offset=offset,
            filter=None if filter is None else filter_message(filter),
            ranking=_RANKINGS[ranking],
            exact=exact,
            min_score=min_score,
            include_vectors=include_vectors,
        )
        return conversion.search_results_of((yield from _ask(methods.SEARCH, request)))

    def classify(self, image: Content, labels: Sequence[str], templates: Sequence[str] = ()) -> Steps[Classifications]:
        """Tell how well each label fits an image.

        >>> from clip_search.contents import ItemId
        >>> fits = client.classify(ItemId("sea/whale"), ["a whale", "a red apple"]).classifications
        >>> max(fits, key=lambda fit: fit.probability).label
        'a whale'

        Args:
            image: a picture, a vector or the id of an item.
            labels: different and not empty.
            templates: sentences with a `{}` for the label, all of which each label is averaged over; none means the
                label alone.
        """
        request = search_pb2.ClassifyRequest(
            collection=self.collection,
            model=self.model,
            image=conversion.content_message(image),
            labels=labels,
            templates=templates,
        )
        return conversion.classifications_of((yield from _ask(methods.CLASSIFY, request)))

    def embed(self, inputs: Iterable[Content]) -> Steps[Embeddings]:
        """Embed texts and images without storing anything; each input has its own outcome.

        >>> from clip_search.contents import Image, Text
        >>> words, picture = client.embed([Text("a whale"), Image(b"no picture")]).outcomes
        >>> words.vector.shape, words.error
        ((192,), None)
        >>> picture.error.code
        'INVALID_ARGUMENT'
        """
        messages = [conversion.content_message(each) for each in inputs]
        request = embedding_pb2.EmbedRequest(model=self.model, inputs=messages)
        return conversion.embeddings_of((yield from _ask(methods.EMBED, request)))

    # ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def upsert(self, items: Iterable[Item]) -> Steps[tuple[ItemOutcome, ...]]:
        """Store some items in one request, each replacing the item of the same id; outcomes come in their order.

        >>> from clip_search.contents import Item, Text
        >>> (outcome,) = client.upsert([Item("sea/shell", Text("a spiral shell"), {"year": 2024})])
        >>> outcome.id, outcome.error
        ('sea/shell', None)
        """
        messages = [conversion.item_message(item) for item in items]
        request = index_pb2.UpsertRequest(collection=self.collection, model=self.model, items=messages)
        response = yield from _ask(methods.UPSERT, request)
        return tuple(map(conversion.outcome_of, response.results))

    def delete(self, ids: Iterable[str]) -> Steps[Deletion]:
        """Delete items by id, whether they are there or not; of more than 1,000 ids, some may go before others.

        >>> client.delete(["sea/shell", "sea/nowhere"]).deleted
        1
        """
        deletion = Deletion(0, 0)
        for chunk in _chunks(ids, _IDS_PER_REQUEST):
            request = index_pb2.DeleteRequest(collection=self.collection, ids=index_pb2.Ids(ids=chunk))
            response = yield from _ask(methods.DELETE, request)
            deletion = Deletion(deletion.deleted + response.deleted, response.sequence)
        return deletion

    def delete_matching(self, filter: Filter) -> Steps[Deletion]:  # noqa: A002  # the API's word
        """Delete every item that matches; of very many, some may go before others.

        >>> from clip_search.filters import Attribute
        >>> client.delete_matching(Attribute("year") < 1900).deleted
        0
        """
        request = index_pb2.DeleteRequest(collection=self.collection, filter=filter_message(filter))
        response = yield from _ask(methods.DELETE, request)
        return Deletion(response.deleted, response.sequence)

    def snapshot(self) -> Steps[Snapshot]:
        """Publish a generation of the index, from which the server's next start is quick.

        >>> client.snapshot().generation >= 1
        True
        """
        request = index_pb2.CreateSnapshotRequest(collection=self.collection)
        return conversion.snapshot_of((yield from _ask(methods.CREATE_SNAPSHOT, request)).snapshot)

    # ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def get_items(self, ids: Iterable[str], *, include_vectors: bool = False) -> Steps[ItemsFound]:
        """Read items by id.

        >>> found = client.get_items(["fruit/pear", "fruit/plum"])
        >>> found.items[0].text, dict(found.items[0].attributes), found.missing_ids
        ('a green pear', {'year': 2024}, ('fruit/plum',))
        """
        found: list[StoredItem] = []
        missing: list[str] = []
        for chunk in _chunks(ids, _IDS_PER_REQUEST):
            request = index_pb2.GetItemsRequest(collection=self.collection, ids=chunk, include_vectors=include_vectors)
            response = yield from _ask(methods.GET_ITEMS, request)
            found += map(conversion.stored_item_of, response.items)
            missing += response.missing_ids
        return ItemsFound(tuple(found), tuple(missing))

    def list_items(
        self,
        *,
        page_size: int = 100,
        page_token: str = "",
        filter: Filter | None = None,  # noqa: A002  # the API's word
        include_vectors: bool = False,
    ) -> Steps[ItemPage]:
        """Read one page of all items, or of those that match, in byte order of their ids.

        `page_token` comes from the page before.

        >>> page = client.list_items(page_size=2)
        >>> [item.id for item in page.items]
        ['fruit/apple', 'fruit/pear']
        >>> [item.id for item in client.list_items(page_token=page.next_page_token).items]
        ['sea/whale']
        """
        request = index_pb2.ListItemsRequest(
            collection=self.collection,
            page_size=page_size,
            page_token=page_token,
            filter=None if filter is None else filter_message(filter),
            include_vectors=include_vectors,
        )
        response = yield from _ask(methods.LIST_ITEMS, request)
        return ItemPage(tuple(map(conversion.stored_item_of, response.items)), response.next_page_token)

    def every_item(
        self,
        *,
        filter: Filter | None = None,  # noqa: A002  # the API's word
        include_vectors: bool = False,
        page_size: int = _PAGE_SIZE,
    ) -> Iterator[Steps[tuple[StoredItem, ...]]]:
        """Read all items, or all that match, in byte order of their ids, a page at a time as they are drawn.

        >>> from clip_search.filter_text import parse_filter
        >>> [item.id for item in client.every_item(filter=parse_filter("year = 2024"))]
        ['fruit/pear', 'sea/whale']
        """
        page_token = ""
        more = True

        def next_page() -> Steps[tuple[StoredItem, ...]]:
            nonlocal page_token, more
            page = yield from self.list_items(
                page_size=page_size, page_token=page_token, filter=filter, include_vectors=include_vectors
            )
            page_token = page.next_page_token
            more = bool(page_token)
            return page.items

        while more:
            yield next_page()

    def thumbnails(self, ids: Iterable[str]) -> Iterator[Steps[tuple[Thumbnail, ...]]]:
        """Read the thumbnails stored with items, one for each id in order, empty where there is none.

        >>> [(thumbnail.id, thumbnail.data) for thumbnail in client.thumbnails(["sea/whale"])]
        [('sea/whale', b'')]
        """
        return map(self._some_thumbnails, _chunks(ids, _THUMBNAILS_PER_REQUEST))

    def _some_thumbnails(self, ids: list[str]) -> Steps[tuple[Thumbnail, ...]]:
        request = index_pb2.GetThumbnailsRequest(collection=self.collection, ids=ids)
        response = yield from _ask(methods.GET_THUMBNAILS, request)
        return tuple(Thumbnail(each.id, each.data, each.media_type) for each in response.thumbnails)

    def image(self, item_id: str) -> Steps[bytes]:
        """Read the picture that an item was made from; raises `NotFoundError` where the server keeps none of it.

        >>> from clip_search.errors import NotFoundError
        >>> try:
        ...     client.image("sea/whale")
        ... except NotFoundError as error:
        ...     print(error.code)
        NOT_FOUND
        """
        request = index_pb2.GetImageRequest(collection=self.collection, id=item_id)
        return (yield from _ask(methods.GET_IMAGE, request)).data

    def stats(self) -> Steps[Stats]:
        """Tell how large the collection is and what it is made of.

        >>> stats = client.stats()
        >>> stats.collection, stats.items, stats.embedding_dim
        ('default', 3, 192)
        """
        request = index_pb2.GetStatsRequest(collection=self.collection)
        return conversion.stats_of((yield from _ask(methods.GET_STATS, request)))

    # ── Collections ──────────────────────────────────────────────────────────────────────────────────────────────────

    def create_collection(self, name: str) -> Steps[Collection]:
        """Create an empty collection for the space of this client's model; raises `AlreadyExistsError`.

        >>> client.create_collection("pets-v1").items
        0
        """
        request = collection_pb2.CreateCollectionRequest(collection=name, model=self.model)
        return conversion.collection_of((yield from _ask(methods.CREATE_COLLECTION, request)).collection)

    def list_collections(self) -> Steps[tuple[Collection, ...]]:
        """List all collections with their aliases, by name in byte order.

        >>> [collection.name for collection in client.list_collections()]
        ['default', 'pets-v1']
        """
        response = yield from _ask(methods.LIST_COLLECTIONS, collection_pb2.ListCollectionsRequest())
        return tuple(map(conversion.collection_of, response.collections))

    def set_alias(self, alias: str, collection: str) -> Steps[str]:
        """Point an alias at a collection, atomically; return what it pointed at before, or an empty text.

        >>> client.set_alias("pets", "pets-v1")
        ''
        """
        request = collection_pb2.SetAliasRequest(alias=alias, collection=collection)
        return (yield from _ask(methods.SET_ALIAS, request)).previous_collection

    def remove_alias(self, alias: str) -> Steps[str]:
        """Remove an alias, whether it is there or not; return what it pointed at, or an empty text.

        >>> client.remove_alias("pets")
        'pets-v1'
        """
        return self.set_alias(alias, "")

    def delete_collection(self, name: str) -> Steps[None]:
        """Delete a collection and everything in it, for ever; no alias may point at it.

        >>> client.delete_collection("pets-v1")
        """
        yield from _ask(methods.DELETE_COLLECTION, collection_pb2.DeleteCollectionRequest(collection=name))

    # ── The server itself ────────────────────────────────────────────────────────────────────────────────────────────

    def server_info(self) -> Steps[ServerInfo]:
        """Tell the server's version, models, devices and limits.

        >>> info = client.server_info()
        >>> [model.is_default for model in info.models], info.limits.items_per_request_max
        ([True], 1000)
        """
        request = server_pb2.GetServerInfoRequest()
        return conversion.server_info_of((yield from _ask(methods.GET_SERVER_INFO, request)))

    def health(self, service: str = "") -> Steps[str]:
        """Tell whether a service, or with an empty name the whole server, is ready: `SERVING` or `NOT_SERVING`, say.

        >>> client.health(), client.health("clip_search.v1.SearchService")
        ('SERVING', 'SERVING')
        """
        response = yield from _ask(methods.CHECK_HEALTH, health_pb2.HealthCheckRequest(service=service))
        return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)


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
