"""`clip-search serve`: options in, a running server out; knows nothing of how it serves."""

import asyncio
import dataclasses
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from clip_search_server.allocator import give_back_large_blocks
from clip_search_server.command_options import (
    check_tracing,
    read_bundles,
    read_size,
    read_trace_endpoint,
    tls_files,
)
from clip_search_server.configuration import configuration_option, effective_configuration, unknown_variables
from clip_search_server.encoder.thumbnails import ThumbnailSettings
from clip_search_server.encoder.towers import EncoderSettings
from clip_search_server.errors import ClipSearchError
from clip_search_server.index import EngineChoice, IndexSettings
from clip_search_server.interpreter import prefer_latency
from clip_search_server.limits import Limits
from clip_search_server.logs import LogFormat, start_logging
from clip_search_server.rpc.server import ServerOptions
from clip_search_server.rpc.server import serve as run_server

__all__ = ["serve"]

_ENCODER_HELP = {
    "image_threads": "Threads that compute pictures.",
    "text_threads": "Threads that compute texts.",
    "image_batch_max": "Pictures computed at a time.",
    "text_batch_tokens_max": "Tokens of texts computed at a time, padding included.",
}

F = TypeVar("F", bound=Callable[..., Any])


def _limit_options(command: F) -> F:
    """Give `command` one option for each limit."""
    for limit in reversed(dataclasses.fields(Limits)):
        option = click.option(
            f"--{limit.name.replace('_', '-')}", type=click.IntRange(min=1), default=limit.default, show_default=True
        )
        command = option(command)
    return command


def _encoder_options(command: F) -> F:
    """Give `command` one option for each number that is otherwise measured."""
    for name, text in reversed(_ENCODER_HELP.items()):
        option = click.option(
            f"--{name.replace('_', '-')}",
            type=click.IntRange(min=1),
            help=f"{text} By default what measurement finds best.",
        )
        command = option(command)
    return command


def _encoder_settings(values: dict[str, int | None]) -> EncoderSettings:
    """Take the values of `_encoder_options` out of `values`."""
    return EncoderSettings(**{name: values.pop(name) or 0 for name in _ENCODER_HELP})


def _index_settings(
    limits: Limits,
    *,
    durability: Any,  # noqa: ANN401 - a choice
    engine: Any,  # noqa: ANN401 - likewise
    tail_rows_max: int,
    recall_interval_seconds: float,
) -> IndexSettings:
    """Return settings whose own limits are never the narrower ones."""
    return IndexSettings(
        durability=durability,
        engine=engine,
        tail_rows_max=tail_rows_max,
        recall_interval_seconds=recall_interval_seconds,
        id_bytes_max=limits.id_bytes_max,
        text_characters_max=limits.text_chars_max,
        thumbnail_bytes_max=limits.thumbnail_bytes_max,
        attributes_max=limits.attributes_max,
        attributes_bytes_max=limits.attributes_bytes_max,
        filter_conditions_max=limits.filter_conditions_max,
        filter_depth_max=limits.filter_depth_max,
        records_max=max(limits.items_per_request_max, limits.page_size_max + 1, limits.search_limit_max),
        search_window_max=limits.search_limit_max,
    )


def _telemetry_options(values: dict[str, Any]) -> dict[str, Any]:
    """Take what is to be seen of the server, and where, out of `values`; a usage error where that is not installed."""
    check_tracing(values["trace_endpoint"])
    return {name: values.pop(name) for name in ("metrics_listen", "trace_endpoint", "trace_ratio")}


def _start_logging(context: click.Context, values: dict[str, Any]) -> None:
    """Log to the standard error as `values` says, beginning with what in the environment only looks like a setting."""
    start_logging(values.pop("log_level"), values.pop("log_format"), sys.stderr)
    for sentence in unknown_variables(context):
        logging.getLogger(__name__).warning("%s", sentence)


@click.command(context_settings={"auto_envvar_prefix": "CLIP_SEARCH_SERVE"})
@configuration_option()
@click.option("--print-config", is_flag=True, help="Print all settings as such a file, with where each came from.")
@click.option(
    "--bundle",
    required=True,
    multiple=True,
    type=click.Path(),  # so that a variable of the environment may list several, as PATH does
    metavar="[NAME=]PATH",
    callback=read_bundles,
    help="Folder that clip-search export wrote. Repeated with names: several models; the first is the default one.",
)
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder that keeps the collections.")
@click.option("--listen", default="127.0.0.1:50051", show_default=True, help="HOST:PORT; port 0 picks a free one.")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["float", "auto", "fp16", "fp32", "int8"]),
    default="float",
    show_default=True,
    help="The bundle's FP16 or FP32; int8, if it was exported; auto takes int8 where the processor is fast at it.",
)
@click.option(
    "--durability",
    type=click.Choice(["always", "interval"]),
    default="always",
    show_default=True,
    help="Sync the disk before each acknowledgement, or once a second.",
)
@click.option(
    "--engine",
    type=click.Choice(get_args(EngineChoice)),
    default=IndexSettings().engine,
    show_default=True,
    help="What builds new index segments; auto takes the first that is installed.",
)
@click.option(
    "--segment-rows",
    type=click.IntRange(min=16),
    default=IndexSettings().tail_rows_max,
    show_default=True,
    help="New vectors that are searched exactly before they are sealed into an HNSW segment.",
)
@click.option(
    "--snapshot-interval-seconds",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    help="How often a generation is published, where something was written.",
)
@click.option(
    "--recall-interval-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=IndexSettings().recall_interval_seconds,
    show_default=True,
    help="How often, in idle time, recent searches are compared with exact ones; inf for never.",
)
@click.option(
    "--thumbnails/--no-thumbnails",
    help="Keep a small WebP of each picture that comes without a thumbnail, to show hits by.",
)
@click.option(
    "--thumbnail-edge-max",
    type=click.IntRange(16, 512),
    default=256,
    show_default=True,
    help="Pixels of the longest edge of thumbnails that the server makes.",
)
@click.option(
    "--keep-images",
    metavar="SIZE",
    callback=read_size,
    default="0",
    help="Keep the pictures of new items, up to SIZE in all (10GB, say), so that a later model can embed them.",
)
@click.option("--drain-seconds", default=30.0, show_default=True, help="How long calls in flight may take at shutdown.")
@click.option(
    "--metrics-listen", metavar="HOST:PORT", help="Serve Prometheus metrics over HTTP here; by default nowhere."
)
@click.option(
    "--trace-endpoint",
    metavar="URL",
    callback=read_trace_endpoint,
    help="Send traces to this OpenTelemetry collector (OTLP/HTTP), such as http://localhost:4318; by default nowhere.",
)
@click.option(
    "--trace-ratio",
    type=click.FloatRange(min=0, max=1),
    default=0.01,
    show_default=True,
    help="Share of the calls to trace whose callers do not say (traceparent).",
)
@click.option(
    "--tls-certificate", type=click.Path(path_type=Path), help="PEM: the server's certificate, then issuers'."
)
@click.option("--tls-key", type=click.Path(path_type=Path), help="PEM: the certificate's private key, not encrypted.")
@click.option(
    "--tls-client-ca",
    type=click.Path(path_type=Path),
    help="PEM: clients must show a certificate that one of these authorities issued.",
)
@click.option(
    "--api-keys",
    type=click.Path(path_type=Path),
    help="File of the keys that callers must send one of; clip-search key new makes them.",
)
@click.option("--reflection/--no-reflection", default=True, help="Tell callers what services there are.")
@click.option("--insecure/--no-insecure", help="Listen beyond loopback without TLS.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option(
    "--log-format",
    type=click.Choice(get_args(LogFormat)),
    default="text",
    show_default=True,
    help="Log lines as text, or as one JSON object each.",
)
@_encoder_options
@_limit_options
def serve(  # noqa: PLR0917 - click calls by keyword
    print_config: bool,  # noqa: FBT001 - likewise
    bundle: dict[str, Path],
    data: Path,
    listen: str,
    device: Any,  # noqa: ANN401 - click hands over one of the choices
    precision: Any,  # noqa: ANN401 - likewise
    durability: Any,  # noqa: ANN401 - likewise
    engine: Any,  # noqa: ANN401 - likewise
    segment_rows: int,
    snapshot_interval_seconds: float,
    recall_interval_seconds: float,
    thumbnails: bool,  # noqa: FBT001 - click calls by keyword
    thumbnail_edge_max: int,
    keep_images: int,
    drain_seconds: float,
    api_keys: Path | None,
    reflection: bool,  # noqa: FBT001 - likewise
    insecure: bool,  # noqa: FBT001 - likewise
    **values: Any,  # noqa: ANN401 - files of TLS, how to log and to be seen, the encoder's settings and the limits
) -> None:
    """Serve models and their index over gRPC.

    Prints `listening on HOST:PORT` once requests are served. SIGTERM finishes calls in flight, takes a snapshot and
    exits 0.

    Each option may come from a variable of the environment (CLIP_SEARCH_SERVE_CALLS_MAX for --calls-max) or from the
    file of --config (calls_max = 200). The command line goes before the environment, that before the file.
    """
    context = click.get_current_context()
    tls = tls_files(*(values.pop(name) for name in ("tls_certificate", "tls_key", "tls_client_ca")))
    if print_config:
        click.echo(effective_configuration(context), nl=False)
        return
    telemetry = _telemetry_options(values)
    _start_logging(context, values)
    encoder = _encoder_settings(values)
    limits = Limits(**values)
    options = ServerOptions(
        bundles=bundle,
        data=data,
        listen=listen,
        device=device,
        precision=precision,
        insecure=insecure,
        drain_seconds=drain_seconds,
        snapshot_interval_seconds=snapshot_interval_seconds,
        index=_index_settings(
            limits,
            durability=durability,
            engine=engine,
            tail_rows_max=segment_rows,
            recall_interval_seconds=recall_interval_seconds,
        ),
        limits=limits,
        encoder=encoder,
        thumbnails=ThumbnailSettings(thumbnail_edge_max, limits.thumbnail_bytes_max) if thumbnails else None,
        keep_images_bytes=keep_images,
        tls=tls,
        api_keys=api_keys,
        reflection=reflection,
        **telemetry,
    )
    prefer_latency()
    give_back_large_blocks()
    try:
        asyncio.run(run_server(options, announce=lambda address: click.echo(f"listening on {address}")))
    except ClipSearchError as error:
        click.echo(f"clip-search serve: {error}", err=True)
        sys.exit(1)
