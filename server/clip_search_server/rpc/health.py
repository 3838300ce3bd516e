"""What `grpc.health.v1` says of each service, and keeps saying truthfully while things change; knows no method.

    IndexService        NOT_SERVING while a collection refuses writes, which it does after any error of its disk until
                        the server is started anew
    SearchService,      NOT_SERVING where there are collections and none of them could be opened
    IndexService
    the server ("")     SERVING from the start to the drain
    and all others

Whoever writes asks for IndexService and goes elsewhere, or has the server started anew; whoever searches is not turned
away by a disk that takes no writes, since reads go on. So a probe that restarts the server should ask for IndexService
only where a restart is wanted then, and a balancer before searches for SearchService. One damaged collection of several
is told of by its own errors and by the listing, not here: the others are served as ever.
"""

import asyncio
import logging
from collections.abc import Mapping
from types import ModuleType
from typing import Final

from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health, health_pb2

from clip_search.v1 import collection_pb2, embedding_pb2, index_pb2, search_pb2, server_pb2
from clip_search_server.search.catalog import Catalog

__all__ = ["SERVICE_NAMES", "Health", "troubles"]

_LOG = logging.getLogger(__name__)
_API: Final[tuple[ModuleType, ...]] = (collection_pb2, embedding_pb2, index_pb2, search_pb2, server_pb2)
_LOOK_SECONDS: Final = 1.0
_Status = health_pb2.HealthCheckResponse


def _service_names() -> tuple[str, ...]:
    names: list[str] = []
    for module in _API:
        descriptor: FileDescriptor = module.DESCRIPTOR
        names.extend(service.full_name for service in descriptor.services_by_name.values())
    return tuple(names)


#: Full names of the API's services.
SERVICE_NAMES: Final = _service_names()
_INDEX: Final = "clip_search.v1.IndexService"
_SEARCH: Final = "clip_search.v1.SearchService"


def troubles(catalog: Catalog) -> Mapping[str, str]:
    """Return the services that cannot do what they are for, each with the reason."""
    found: dict[str, str] = {}
    if catalog.unopened and not any(catalog.collections):
        reason = f"no collection could be opened ({', '.join(catalog.unopened)})"
        found |= {_INDEX: reason, _SEARCH: reason}
    refusing = [collection.name for collection in catalog.collections if collection.write_failure is not None]
    if refusing:
        found[_INDEX] = f"writes are refused since the disk failed ({', '.join(refusing)})"
    return found


class Health:
    """The health service of a server.

    Attributes:
        servicer: what is registered with gRPC.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.servicer = health.aio.HealthServicer()
        self._catalog = catalog
        self._known: Mapping[str, str] | None = None

    async def look(self) -> None:
        """Say how things are now; changes are logged."""
        found = troubles(self._catalog)
        if found == self._known:
            return
        known, self._known = self._known or {}, found
        for name in ("", *SERVICE_NAMES):
            await self.servicer.set(name, _Status.NOT_SERVING if name in found else _Status.SERVING)
            if name in found and found[name] != known.get(name):
                _LOG.warning("%s is NOT_SERVING: %s", name, found[name])
            elif name in known and name not in found:
                _LOG.info("%s is SERVING again", name)

    async def watch(self) -> None:
        """Do so once a second, for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.look()

    async def drain(self) -> None:
        """Say NOT_SERVING of everything, from now on."""
        await self.servicer.enter_graceful_shutdown()
