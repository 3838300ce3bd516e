"""ServerService: what this server is and what it accepts."""

import dataclasses
import os
import platform
from importlib import metadata
from typing import Any

from grpc import aio

from clip_search.v1 import server_pb2, server_pb2_grpc
from clip_search_server.encoder.encoder import Encoder
from clip_search_server.encoder.sessions import Device
from clip_search_server.limits import Limits
from clip_search_server.search.models import Models

__all__ = ["ServerService"]


class ServerService(server_pb2_grpc.ServerServiceServicer):
    """Describes the server."""

    def __init__(self, models: Models, limits: Limits) -> None:
        devices = {encoder.device.name: encoder.device for encoder in models.values()}
        self._info = server_pb2.GetServerInfoResponse(
            version=metadata.version("clip-search"),
            models=[
                _model_info(name, encoder, is_default=name == models.default_name) for name, encoder in models.items()
            ],
            devices=[_device_info(device) for device in devices.values()],
            limits=server_pb2.Limits(**dataclasses.asdict(limits)),
        )

    async def GetServerInfo(
        self, request: server_pb2.GetServerInfoRequest, context: aio.ServicerContext[Any, Any]
    ) -> server_pb2.GetServerInfoResponse:
        """Return version, models, devices and limits."""
        return self._info


def _model_info(name: str, encoder: Encoder, *, is_default: bool) -> server_pb2.ModelInfo:
    manifest = encoder.manifest
    return server_pb2.ModelInfo(
        name=name,
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
        is_default=is_default,
    )


def _device_info(device: Device) -> server_pb2.DeviceInfo:
    return server_pb2.DeviceInfo(
        name=device.name, description=f"{platform.machine()}, {os.cpu_count()} cores, {device.reason}"
    )
