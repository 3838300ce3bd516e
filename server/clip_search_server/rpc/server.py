"""Builds, starts and drains the gRPC server; knows nothing of what its methods do.

Lifecycle: bind the port (so that a port in use is told at once) -> load model and collections -> start, SERVING ->
SIGTERM or SIGINT -> NOT_SERVING, refuse new calls, finish those in flight (of streams what was received) -> snapshot ->
release the data folder.
"""

import asyncio
import ipaddress
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, ProcessCollector

from clip_search.v1 import collection_pb2_grpc, embedding_pb2_grpc, index_pb2_grpc, search_pb2_grpc, server_pb2_grpc
from clip_search_server.access.certificates import TlsFiles
from clip_search_server.access.key_ring import KeyRing
from clip_search_server.bundle import Bundle
from clip_search_server.encoder.encoder import Encoder
from clip_search_server.encoder.precision import PrecisionChoice
from clip_search_server.encoder.sessions import DeviceChoice
from clip_search_server.encoder.thumbnails import ThumbnailSettings
from clip_search_server.encoder.towers import EncoderSettings
from clip_search_server.errors import FailedPreconditionError
from clip_search_server.index import IndexSettings
from clip_search_server.limits import Limits
from clip_search_server.rpc.collection_service import CollectionService
from clip_search_server.rpc.embedding_service import EmbeddingService
from clip_search_server.rpc.guard import Guard
from clip_search_server.rpc.health import SERVICE_NAMES, Health
from clip_search_server.rpc.index_service import IndexService
from clip_search_server.rpc.interceptor import RequestInterceptor
from clip_search_server.rpc.open_calls import OpenCalls
from clip_search_server.rpc.permissions import PERMISSIONS
from clip_search_server.rpc.search_service import SearchService
from clip_search_server.rpc.server_service import ServerService
from clip_search_server.rpc.tls import ServerTls
from clip_search_server.search.catalog import Catalog
from clip_search_server.search.likely_queries import expect_likely_queries
from clip_search_server.search.models import Models
from clip_search_server.search.snapshots import snapshot_all, snapshot_regularly
from clip_search_server.spans import Tracer
from clip_search_server.telemetry.calls import CallFigures
from clip_search_server.telemetry.collector import ServerCollector
from clip_search_server.telemetry.endpoint import MetricsEndpoint

__all__ = ["ServerOptions", "serve"]

_LOG = logging.getLogger(__name__)

#: Streams of one connection besides calls of the API: health checks and watches, reflection.
_STREAMS_BESIDE_CALLS = 100
#: How long a stop may take because of traces that were not sent yet.
_TRACES_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What an operator decides.

    Attributes:
        bundles: the folder of each model by its name; the first is the default one.
        keep_images_bytes: pictures that are kept for a later model, in bytes; 0 for none.
        tls: certificate and key; None for plaintext.
        api_keys: the file of keys; None asks callers for none.
        reflection: whether callers may ask what services there are.
        metrics_listen: HOST:PORT where Prometheus may ask for metrics; None for nowhere.
        trace_endpoint: URL of the collector that traces are sent to; None for nowhere.
        trace_ratio: share of the calls to trace whose callers do not say whether they are.
    """

    bundles: Mapping[str, Path]
    data: Path
    listen: str
    device: DeviceChoice
    precision: PrecisionChoice
    insecure: bool
    drain_seconds: float
    snapshot_interval_seconds: float
    index: IndexSettings
    limits: Limits
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    thumbnails: ThumbnailSettings | None = None
    keep_images_bytes: int = 0
    tls: TlsFiles | None = None
    api_keys: Path | None = None
    reflection: bool = True
    metrics_listen: str | None = None
    trace_endpoint: str | None = None
    trace_ratio: float = 0.01


async def serve(options: ServerOptions, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        options: what the operator decided.
        announce: is called with `HOST:PORT` once requests are served.

    Raises:
        ClipSearchError: the server cannot start; the message says what to do.
    """
    stop = _stop_signal()
    calls = OpenCalls(options.limits)
    keys = KeyRing(options.api_keys) if options.api_keys else None
    tls = ServerTls(options.tls) if options.tls else None
    figures = CallFigures(PERMISSIONS)
    tracer = _open_tracer(options)
    server = _make_server(options.limits, RequestInterceptor(calls, Guard(keys), figures, tracer))
    address = _bind(server, options, tls)
    catalog = await _open_catalog(options)
    background = [asyncio.create_task(snapshot_regularly(catalog, options.snapshot_interval_seconds))]
    background += [asyncio.create_task(_always(keys.watch))] if keys else []
    background += [asyncio.create_task(_always(lambda: tls.watch(address)))] if tls else []
    metrics: MetricsEndpoint | None = None
    try:
        metrics = _open_metrics(options, catalog, calls, figures)
        health_status = Health(catalog)
        _add_services(server, catalog, options, calls, health_status)
        await health_status.look()
        await server.start()
        announce(address)
        background.append(asyncio.create_task(_always(health_status.watch)))
        background += [asyncio.create_task(_settle(encoder, catalog)) for encoder in catalog.models.values()]
        await stop.wait()
        _LOG.info("stopping: finishing calls in flight, at most %.0f s", options.drain_seconds)
        calls.drain()
        await health_status.drain()
        await _drain(server, calls, options.drain_seconds)
        await snapshot_all(catalog)
    finally:
        for task in background:
            task.cancel()
        await server.stop(0)
        if metrics is not None:
            await asyncio.to_thread(metrics.close)
        if tracer is not None:
            await asyncio.to_thread(tracer.close, _TRACES_SECONDS_MAX)
        await catalog.close()
    _LOG.info("stopped")


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _always(watch: Callable[[], Awaitable[None]]) -> None:
    """Watch, whatever happens: revoked keys and renewed certificates must not go unseen because of one bad look."""
    while True:
        try:
            await watch()
        except Exception:  # noqa: BLE001 - see above
            _LOG.exception("watching files failed; it goes on")


async def _settle(encoder: Encoder, catalog: Catalog) -> None:
    """Do what only makes things better, once requests are served."""
    try:
        await expect_likely_queries(encoder, catalog)
        await encoder.refine()
    except Exception:  # noqa: BLE001 - see above
        _LOG.exception("what is done in idle time failed; segments and batches stay as they are tuned")


def _make_server(limits: Limits, requests: RequestInterceptor) -> aio.Server:
    return aio.server(
        interceptors=[requests],
        options=[
            # More than calls_max, so that what is beyond that is refused, with a time to come back, and does not wait.
            ("grpc.max_concurrent_streams", 2 * limits.calls_max + _STREAMS_BESIDE_CALLS),
            ("grpc.max_receive_message_length", limits.message_bytes_max),
            ("grpc.max_send_message_length", limits.message_bytes_max),
            # Otherwise a second server on the same port would silently take half of the calls.
            ("grpc.so_reuseport", 0),
        ],
    )


def _bind(server: aio.Server, options: ServerOptions, tls: ServerTls | None) -> str:
    """Bind the port and return `HOST:PORT`, with the port that was chosen for port 0."""
    host, _ = _host_and_port("--listen", options.listen)
    if not _is_loopback(host):
        _check_exposure(options)
    try:
        if tls is None:
            bound = server.add_insecure_port(options.listen)
        else:
            bound = server.add_secure_port(options.listen, tls.credentials)
    except RuntimeError as error:
        raise FailedPreconditionError(
            f"--listen {options.listen}: the address cannot be bound; another program may be using the port. "
            "Stop it, or choose another port (0 picks a free one)."
        ) from error
    return f"{host}:{bound}"


def _check_exposure(options: ServerOptions) -> None:
    """Refuse an address beyond loopback where strangers could read along, and warn of what else is open to them."""
    if options.tls is None and not options.insecure:
        harm = "read every key and request on the way" if options.api_keys else "read and write everything"
        raise FailedPreconditionError(
            f"--listen {options.listen}: anyone who reaches this address could {harm}. Listen on 127.0.0.1, give "
            "--tls-certificate and --tls-key, or add --insecure if the network keeps strangers out."
        )
    if options.api_keys is None and (options.tls is None or options.tls.client_ca is None):
        _LOG.warning(
            "--listen %s: anyone who reaches this address can read and write everything; --api-keys or --tls-client-ca "
            "keep strangers out",
            options.listen,
        )
    elif options.tls is None:
        _LOG.warning("--listen %s: without TLS, API keys can be read on the way", options.listen)


def _host_and_port(option: str, address: str) -> tuple[str, int]:
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit():
        raise FailedPreconditionError(f"{option} {address}: is no HOST:PORT, such as 127.0.0.1:50051.")
    return host, int(port)


def _open_metrics(
    options: ServerOptions, catalog: Catalog, calls: OpenCalls, figures: CallFigures
) -> MetricsEndpoint | None:
    """Serve metrics where the operator asked for it."""
    if options.metrics_listen is None:
        return None
    host, port = _host_and_port("--metrics-listen", options.metrics_listen)
    if not options.insecure and not _is_loopback(host):
        raise FailedPreconditionError(
            f"--metrics-listen {options.metrics_listen}: anyone who reaches this address could read the metrics. "
            "Listen on 127.0.0.1, or add --insecure if the network keeps strangers out."
        )
    registry = CollectorRegistry()
    registry.register(ServerCollector(catalog, figures, lambda: calls.count))
    ProcessCollector(registry=registry)
    endpoint = MetricsEndpoint(registry, host.strip("[]"), port)
    _LOG.info("metrics at http://%s:%d/metrics", host, endpoint.port)
    return endpoint


def _open_tracer(options: ServerOptions) -> Tracer | None:
    """Send traces where the operator asked for it; nobody else pays for importing OpenTelemetry."""
    if options.trace_endpoint is None:
        return None
    from clip_search_server.telemetry.trace_export import open_tracer  # noqa: PLC0415 - an extra

    return open_tracer(options.trace_endpoint, options.trace_ratio, metadata.version("clip-search"))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def _open_catalog(options: ServerOptions) -> Catalog:
    encoders: dict[str, Encoder] = {}
    try:
        for name, folder in options.bundles.items():
            encoders[name] = await asyncio.to_thread(_open_encoder, name, folder, options)
            await encoders[name].warm_up()
        for names in Models(encoders).shared_spaces():
            _LOG.warning("models %s are of one space; requests that name no model take the first", " and ".join(names))
        return await Catalog.open(
            encoders,
            options.data,
            options.index,
            collections_max=options.limits.collections_max,
            keep_images_bytes=options.keep_images_bytes,
        )
    except BaseException:
        for encoder in encoders.values():
            await encoder.close()
        raise


def _open_encoder(name: str, folder: Path, options: ServerOptions) -> Encoder:
    try:
        bundle = Bundle.open(folder)
        return _load_encoder(name, bundle, options)
    except FailedPreconditionError as error:
        if len(options.bundles) == 1:
            raise
        raise type(error)(f"--bundle {name}={folder}: {error}") from error


def _load_encoder(name: str, bundle: Bundle, options: ServerOptions) -> Encoder:
    encoder = Encoder.open(
        bundle,
        options.limits,
        device=options.device,
        precision=options.precision,
        settings=options.encoder,
        thumbnails=options.thumbnails,
        name=name,
    )
    _LOG.info(
        "model %s: %s, %s (%s), on %s (%s)",
        name,
        bundle.manifest.model.source,
        encoder.precision.name,
        encoder.precision.reason,
        encoder.device.provider,
        encoder.device.reason,
    )
    _LOG.info(
        "batches: %s pictures on %d threads, %s tokens of text on %d",
        encoder.image_batch_bounds.size_max,
        encoder.tuning.image.threads,
        encoder.text_batch_bounds.units_max,
        encoder.tuning.text.threads,
    )
    return encoder


def _add_services(
    server: aio.Server, catalog: Catalog, options: ServerOptions, calls: OpenCalls, health_status: Health
) -> None:
    limits = options.limits
    collection_pb2_grpc.add_CollectionServiceServicer_to_server(CollectionService(catalog), server)
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(EmbeddingService(catalog, limits), server)
    index_pb2_grpc.add_IndexServiceServicer_to_server(IndexService(catalog, limits, calls.draining), server)
    search_pb2_grpc.add_SearchServiceServicer_to_server(SearchService(catalog, limits), server)
    server_pb2_grpc.add_ServerServiceServicer_to_server(ServerService(catalog.models, limits), server)
    health_pb2_grpc.add_HealthServicer_to_server(health_status.servicer, server)
    if options.reflection:
        reflection.enable_server_reflection([*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME], server)


async def _drain(server: aio.Server, calls: OpenCalls, seconds: float) -> None:
    """Wait for the calls that are open, then stop.

    Meanwhile the server still listens and refuses: gRPC would answer calls that arrive in its own shutdown with
    CANCELLED, which callers take to be their own doing. Health watches are cut off: they would use up the whole time.
    """
    try:
        async with asyncio.timeout(seconds):
            await calls.wait_until_idle()
    except TimeoutError:
        _LOG.warning("calls that were still open after %.0f s are cut off", seconds)
    await server.stop(0)
