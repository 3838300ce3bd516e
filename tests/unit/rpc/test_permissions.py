from types import ModuleType

from clip_search.v1 import collection_pb2, embedding_pb2, index_pb2, search_pb2, server_pb2
from clip_search_server.rpc.permissions import PERMISSIONS

MODULES: tuple[ModuleType, ...] = (collection_pb2, embedding_pb2, index_pb2, search_pb2, server_pb2)


def test_every_method_has_its_permission() -> None:
    """The table holds exactly the methods of the protos, so a new one cannot come without."""
    methods = {
        f"/{service.full_name}/{method.name}"
        for module in MODULES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert PERMISSIONS.keys() == methods
