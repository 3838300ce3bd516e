"""What both clients have in common: the address, how it is reached, and what goes with every call; opens no connection.

A connection is kept over calls and made anew by gRPC when it broke. Where it cannot be made, gRPC tries again after a
fifth of a second, and after five at most, which is what lets a client find a restarted server soon.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc

import clip_search
from clip_search.calls import Calls
from clip_search.contents import Item
from clip_search.credentials import TlsOptions, check_api_key, is_loopback, key_metadata
from clip_search.defaults import DEFAULT_SERVER, DEFAULT_TIMEOUT_SECONDS, MESSAGE_BYTES_MAX
from clip_search.errors import ClipSearchError
from clip_search.ingest import Ingest, IngestBounds
from clip_search.methods import INGEST, METHODS
from clip_search.resuming import ResumePolicy
from clip_search.retries import RetryPolicy, service_config
from clip_search.statuses import error_from_call

__all__ = ["Connection", "Target", "open_channel"]

# A silent connection is probed now and then while calls are open, so that a dead peer is noticed. gRPC servers that
# are not told otherwise, ours among them, end connections that probe more often than every 5 minutes.
_KEEPALIVE_MS = 5 * 60 * 1000
_KEEPALIVE_TIMEOUT_MS = 20 * 1000

_RECONNECT_MS_MIN = 200
_RECONNECT_MS_MAX = 5_000

_DEFAULT_RETRY = RetryPolicy()
_DEFAULT_RESUME = ResumePolicy()


@dataclass(frozen=True, slots=True)
class Target:
    """What a channel is made of; without credentials it is not encrypted."""

    address: str
    credentials: grpc.ChannelCredentials | None
    options: tuple[tuple[str, int | str], ...]


class Connection(ABC):
    """A connection to one server. Nothing is sent before the first call.

    Every call raises `ClipSearchError` as `errors.py` describes: `UnreachableError` when nothing answers at the
    address, `DeadlineExceededError` when no answer comes in time, and what the API documents for the call.

    Args:
        server: its address, HOST:PORT.
        collection: which collection calls are about; empty means `default`.
        model: which model embeds; empty means the one of the collection's space, and where no collection takes part the
            server's default one.
        timeout_seconds: deadline of each call, with all its retries. A stream has none, but is given up when nothing is
            answered for so long.
        message_bytes_max: bound on one message, either way.
        tls: encrypts the connection; None leaves it in plaintext.
        api_key: tells the server who calls; sent over TLS, or in plaintext within this machine.
        api_key_without_tls: send the key in plaintext to other machines too, where everyone on the way can read it.
        retry: how calls that may be sent twice (`methods.py`) are retried; None for never.
        resume: how a stream goes on after its connection broke; None for not at all.
        wait_for_ready: wait for a server that cannot be reached, until the deadline, instead of raising at once.

    Raises:
        CredentialsError: a certificate, a key or the API key cannot be used, or the latter may not be sent.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        collection: str = "",
        model: str = "",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        tls: TlsOptions | None = None,
        api_key: str | None = None,
        api_key_without_tls: bool = False,
        retry: RetryPolicy | None = _DEFAULT_RETRY,
        resume: ResumePolicy | None = _DEFAULT_RESUME,
        wait_for_ready: bool = False,
    ) -> None:
        if api_key is not None:
            check_api_key(api_key, server, tls=tls is not None, without_tls=api_key_without_tls)
        self.server = server
        self.timeout_seconds = timeout_seconds
        self._calls = Calls(collection, model)
        self._metadata = key_metadata(api_key)
        self._resume = resume
        self._wait_for_ready = wait_for_ready
        self._tls = tls is not None
        options = [*_channel_options(server, message_bytes_max), *_retry_options(retry, message_bytes_max)]
        if tls is not None and tls.server_name:
            options.append(("grpc.ssl_target_name_override", tls.server_name))
        self._open(Target(server, None if tls is None else _channel_credentials(tls), tuple(options)))

    @abstractmethod
    def _open(self, target: Target) -> None:
        """Make the channel."""

    def _start_ingest(self, channel: grpc.Channel, bounds: IngestBounds | None, items: Iterable[Item]) -> Ingest:
        method = channel.stream_stream(INGEST.path, INGEST.request.SerializeToString, INGEST.response.FromString)
        return Ingest(
            functools.partial(method, **self._call_options()),
            items,
            collection=self._calls.collection,
            model=self._calls.model,
            bounds=bounds or IngestBounds(idle_seconds_max=self.timeout_seconds),
            resume=self._resume,
            explain=self._explain,
        )

    def _call_options(self) -> dict[str, Any]:
        """Return what goes with every call, streams too."""
        return {"metadata": self._metadata, "wait_for_ready": self._wait_for_ready}

    def _explain(self, error: grpc.RpcError) -> ClipSearchError:
        return error_from_call(error, server=self.server, timeout_seconds=self.timeout_seconds, tls=self._tls)


def open_channel(target: Target) -> grpc.Channel:
    """Make a channel for calls that block."""
    if target.credentials is None:
        return grpc.insecure_channel(target.address, target.options)
    return grpc.secure_channel(target.address, target.credentials, target.options)


def _channel_options(server: str, message_bytes_max: int) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS_MIN),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS_MAX),
        ("grpc.primary_user_agent", f"clip-search/{clip_search.__version__}"),
    ]
    if is_loopback(server):  # a proxy set for the outside world cannot reach this machine's own ports
        options.append(("grpc.enable_http_proxy", 0))
    return options


def _retry_options(retry: RetryPolicy | None, message_bytes_max: int) -> list[tuple[str, int | str]]:
    if retry is None:
        return [("grpc.enable_retries", 0)]
    return [
        ("grpc.enable_retries", 1),
        ("grpc.service_config", service_config(retry, METHODS)),
        # A request larger than this is not kept, and so not sent again; gRPC's own bound is less than a picture has.
        ("grpc.per_rpc_retry_buffer_size", message_bytes_max),
    ]


def _channel_credentials(tls: TlsOptions) -> grpc.ChannelCredentials:
    pem = tls.read()
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.certificate)
