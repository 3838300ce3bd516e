"""What a caller needs for each method of the API, in one table; knows nothing of keys and of how calls are handled.

A method that is not in the table can be called by nobody once the server asks for keys; a test compares the table with
the protos. Names of collections count as they stand in the request; see `access/keys.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clip_search.v1 import collection_pb2, search_pb2
from clip_search_server.access.key_ring import Caller
from clip_search_server.access.keys import Role
from clip_search_server.search.catalog import DEFAULT_NAME

__all__ = ["PERMISSIONS", "Permission"]


def _names_none(_request: Any) -> Iterable[str]:  # noqa: ANN401 - any request
    return ()


def _its_collection(request: Any) -> Iterable[str]:  # noqa: ANN401 - any request that has one
    return (request.collection or DEFAULT_NAME,)


def _where_the_picture_is(request: search_pb2.ClassifyRequest) -> Iterable[str]:
    return _its_collection(request) if request.image.HasField("item_id") else ()


def _alias_and_collection(request: collection_pb2.SetAliasRequest) -> Iterable[str]:
    """An alias gives access to what it points at, so whoever sets it needs both; an empty name removes it."""
    return (request.alias, request.collection) if request.collection else (request.alias,)


def _as_it_is(response: Any, _caller: Caller) -> Any:  # noqa: ANN401 - any response
    return response


def _what_may_be_seen(
    response: collection_pb2.ListCollectionsResponse, caller: Caller
) -> collection_pb2.ListCollectionsResponse:
    """Return the collections that the caller may use by their own name or by an alias, and these aliases alone."""
    if caller.collections is None:
        return response
    seen = []
    for collection in response.collections:
        aliases = [alias for alias in collection.aliases if caller.may_use(alias)]
        if aliases or caller.may_use(collection.name):
            collection.aliases[:] = aliases
            seen.append(collection)
    return collection_pb2.ListCollectionsResponse(collections=seen)


@dataclass(frozen=True, slots=True)
class Permission:
    """What one method takes.

    Attributes:
        role: the least that may call it.
        names: the collections and aliases that a request reads or changes. Of a stream, its first message's count: the
            service lets no later one name another.
        shown: what of a response the caller may see.
    """

    role: Role
    names: Callable[[Any], Iterable[str]] = _its_collection
    shown: Callable[[Any, Caller], Any] = _as_it_is


_TABLE: Mapping[str, Mapping[str, Permission]] = {
    "EmbeddingService": {"Embed": Permission(Role.READ, _names_none)},
    "SearchService": {
        "Search": Permission(Role.READ),
        "Classify": Permission(Role.READ, _where_the_picture_is),
    },
    "IndexService": {
        "GetItems": Permission(Role.READ),
        "ListItems": Permission(Role.READ),
        "GetThumbnails": Permission(Role.READ),
        "GetImage": Permission(Role.READ),
        "GetStats": Permission(Role.READ),
        "Upsert": Permission(Role.WRITE),
        "Ingest": Permission(Role.WRITE),
        "Delete": Permission(Role.WRITE),
        "CreateSnapshot": Permission(Role.ADMIN),
    },
    "CollectionService": {
        "ListCollections": Permission(Role.READ, _names_none, _what_may_be_seen),
        "CreateCollection": Permission(Role.ADMIN),
        "DeleteCollection": Permission(Role.ADMIN),
        "SetAlias": Permission(Role.ADMIN, _alias_and_collection),
    },
    "ServerService": {"GetServerInfo": Permission(Role.READ, _names_none)},
}

#: By the method's full name, such as `/clip_search.v1.SearchService/Search`.
PERMISSIONS: Mapping[str, Permission] = {
    f"/clip_search.v1.{service}/{method}": permission
    for service, methods in _TABLE.items()
    for method, permission in methods.items()
}
