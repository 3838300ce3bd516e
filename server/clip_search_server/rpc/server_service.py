"""ServerService: what this server is and what it accepts."""

import dataclasses
import os
import platform
from importlib import metadata
from typing import Any

from grpc import aio

from clip_search.v1 import server_pb2, server_pb2_grpc
from clip_search_server.bundle import Bundle
from clip_search_server.encoder.encoder import Encoder
from clip_search_server.limits import Limits
from clip_search_server.search.catalog import DEFAULT_NAME

__all__ = ["ServerService"]


class ServerService(server_pb2_grpc.ServerServiceServicer):
    """Describes the server."""

    def __init__(self, bundle: Bundle, encoder: Encoder, limits: Limits) -> None:
        self._info = server_pb2.GetServerInfoResponse(
            version=metadata.version("clip-search"),
            models=[_model_info(bundle, encoder)],
            devices=[_device_info(encoder)],
            limits=server_pb2.Limits(**dataclasses.asdict(limits)),
        )

    async def GetServerInfo(
        self, request: server_pb2.GetServerInfoRequest, context: aio.ServicerContext[Any, Any]
    ) -> server_pb2.GetServerInfoResponse:
        """Return version, models, devices and limits."""
        return self._info


def _model_info(bundle: Bundle, encoder: Encoder) -> server_pb2.ModelInfo:
    manifest = bundle.manifest
    return server_pb2.ModelInfo(
        name=DEFAULT_NAME,
        space_id=manifest.space_id,
        source=manifest.model.source,
        revision=manifest.model.revision or "",
        architecture=manifest.model.architecture,
        licence=manifest.model.licence or "",
        embedding_dim=manifest.embedding_dim,
        context_length=manifest.context_length,
        precision=encoder.precision.name,
        execution_provider=encoder.device.provider,
        bundle_digest=manifest.bundle_digest(),
        is_default=True,
    )


def _device_info(encoder: Encoder) -> server_pb2.DeviceInfo:
    return server_pb2.DeviceInfo(
        name=encoder.device.name, description=f"{platform.machine()}, {os.cpu_count()} cores, {encoder.device.reason}"
    )
