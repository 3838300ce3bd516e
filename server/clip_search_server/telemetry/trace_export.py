"""Sends spans to a collector, beside the server's work; imported only where traces are asked for; knows no call.

Ended spans wait in a bounded queue for a thread of OpenTelemetry's, which sends them over OTLP/HTTP; when the queue is
full the oldest are dropped. So a collector that is slow or away costs spans and nothing else. The log says once that
they do not arrive, and once that they do again.

What else OpenTelemetry can be told is read from its own variables (OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_…), by its own code.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from clip_search_server.errors import FailedPreconditionError
from clip_search_server.telemetry.tracing import RequestTracer

__all__ = ["PatientExporter", "open_tracer"]

_LOG = logging.getLogger(__name__)
_SERVICE_NAME: Final = "clip-search"
_TRACES_PATH: Final = "/v1/traces"


class _Reasons(logging.Filter):
    """Keeps log lines back, and the last of them."""

    last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.last = record.getMessage()
        return False


#: What these loggers say is said here, once: of each attempt to send, and of each span that finds no room.
_ATTEMPTS: Final = _Reasons()
_TALKATIVE: Final = {
    "opentelemetry.exporter.otlp.proto.http.trace_exporter": _ATTEMPTS,
    "opentelemetry.sdk._shared_internal": _Reasons(),
}


class PatientExporter(SpanExporter):
    """Hands spans to another exporter, and logs where they stop arriving and where they arrive again.

    Args:
        inner: sends them.
        endpoint: where to, for messages.
    """

    def __init__(self, inner: SpanExporter, endpoint: str) -> None:
        self._inner = inner
        self._endpoint = endpoint
        self._lost = 0
        self._closed = False

    @property
    def is_failing(self) -> bool:
        """Whether the last spans did not arrive."""
        return self._lost > 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; those that do not arrive are lost."""
        try:
            result = self._inner.export(spans)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next spans have another chance
            _ATTEMPTS.last, result = f"{error!r}", SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            if not self._lost and not self._closed:
                _LOG.warning(
                    "traces do not arrive at %s; calls go on, their spans are lost until they do: %s",
                    self._endpoint,
                    _ATTEMPTS.last,
                )
            self._lost += len(spans)
        elif self._lost:
            _LOG.info("traces arrive at %s again; at least %d spans were lost", self._endpoint, self._lost)
            self._lost = 0
        return result

    def shutdown(self) -> None:
        """Give up what is being sent, and send no more, without a word."""
        self._closed = True
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Hold nothing back: nothing is kept here."""
        return self._inner.force_flush(timeout_millis)


def open_tracer(endpoint: str, ratio: float, version: str) -> RequestTracer:
    """Return a tracer whose spans go to a collector.

    Args:
        endpoint: http://HOST:PORT of a collector, to which /v1/traces is added; or with a path of its own.
        ratio: share of the calls to trace whose callers do not say.
        version: of the server.

    Raises:
        FailedPreconditionError: a variable of OpenTelemetry's is wrong.
    """
    url = _traces_url(endpoint)
    for name, reasons in _TALKATIVE.items():
        logging.getLogger(name).addFilter(reasons)
    try:
        exporter = PatientExporter(OTLPSpanExporter(url), url)
        provider = TracerProvider(ALWAYS_ON, _resource(version), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    except (OSError, ValueError, RuntimeError) as error:
        raise FailedPreconditionError(
            f"--trace-endpoint {endpoint}: OpenTelemetry cannot be set up: {error}"
        ) from error
    _LOG.info("traces of %g of the calls, and of those whose callers ask for it, go to %s", ratio, url)
    return RequestTracer(provider, ratio, lambda seconds_max: _close(provider, exporter, seconds_max))


def _traces_url(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    return urlunsplit(parts._replace(path=parts.path if parts.path.strip("/") else _TRACES_PATH))


def _resource(version: str) -> Resource:
    """Return what spans say of the server: what the operator says in OpenTelemetry's variables goes first."""
    given = Resource.create({})
    own = {SERVICE_VERSION: version}
    if str(given.attributes[SERVICE_NAME]).startswith("unknown_service"):  # what OpenTelemetry says where nobody did
        given = given.merge(Resource({SERVICE_NAME: _SERVICE_NAME}))
    return Resource(own).merge(given)


def _close(provider: TracerProvider, exporter: PatientExporter, seconds_max: float) -> None:
    if exporter.is_failing:
        exporter.shutdown()  # What is left would be tried for as long as an export may take.
        return
    # On a thread that nobody waits for: OpenTelemetry's own bounds are longer.
    thread = threading.Thread(target=provider.shutdown, name="traces-flush", daemon=True)
    thread.start()
    thread.join(seconds_max)
    if thread.is_alive():
        exporter.shutdown()
        _LOG.warning("traces that could not be sent within %.0f s of the end are lost", seconds_max)
