"""Sending spans: a collector that is away is told of once, and holds up nothing."""

import logging
import time
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from clip_search_server.errors import FailedPreconditionError
from clip_search_server.telemetry.trace_export import PatientExporter, open_tracer
from tests.integration.collector import running_collector

SEARCH = "/clip_search.v1.SearchService/Search"
#: A port of loopback that nobody listens on: it takes a privileged program to do that.
NOWHERE = "http://127.0.0.1:1"


class Fickle(SpanExporter):
    """Does with spans what it is told."""

    outcome: SpanExportResult | Exception = SpanExportResult.SUCCESS

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Succeed, fail or raise."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def test_lost_traces_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """When they stop arriving and when they arrive again, not at each attempt; nothing is raised."""
    caplog.set_level(logging.INFO)
    inner = Fickle()
    exporter = PatientExporter(inner, "http://collector/v1/traces")
    span = ReadableSpan("a")
    for outcome in (SpanExportResult.SUCCESS, SpanExportResult.FAILURE, OSError("no route")):
        inner.outcome = outcome
        for _ in range(3):
            exporter.export([span, span])
    assert exporter.is_failing
    inner.outcome = SpanExportResult.SUCCESS
    exporter.export([span])
    inner.outcome = OSError("no route")
    exporter.export([span])
    lost, again, lost_again = (record.getMessage() for record in caplog.records)
    assert lost.startswith("traces do not arrive at http://collector/v1/traces; ")
    assert again == "traces arrive at http://collector/v1/traces again; at least 12 spans were lost"
    assert "no route" in lost_again


def test_an_unreachable_collector_delays_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Neither calls nor the end; however many spans find no room, there is one line."""
    caplog.set_level(logging.INFO)
    tracer = open_tracer(NOWHERE, 1.0, "1")
    started = time.monotonic()
    for _ in range(3_000):
        call = tracer.call(SEARCH, None, "")
        assert call is not None
        call.finish("OK")
    assert time.monotonic() - started < 10  # An attempt to send takes about ten.
    started = time.monotonic()
    tracer.close(0.5)
    assert time.monotonic() - started < 5
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1


def test_what_is_left_is_sent_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what OpenTelemetry's own variables say of headers and of the service."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=photos")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    with running_collector() as collector:
        for name in ("", "mine"):
            monkeypatch.setenv("OTEL_SERVICE_NAME", name)
            tracer = open_tracer(collector.url, 1.0, "1.2.3")
            call = tracer.call(SEARCH, None, "")
            assert call is not None
            call.finish("OK")
            tracer.close(10)
    assert len(collector.spans) == 2
    assert [resource["service.name"] for resource in collector.resources] == ["clip-search", "mine"]
    assert all(resource["service.version"] == "1.2.3" for resource in collector.resources)
    assert all(resource["deployment.environment.name"] == "test" for resource in collector.resources)
    assert all(headers["x-tenant"] == "photos" for headers in collector.headers)


def test_a_wrong_variable_of_opentelemetry_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a sentence that names it, instead of a traceback."""
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "many")
    with pytest.raises(FailedPreconditionError, match=r"--trace-endpoint .*OTEL_SPAN_LINK_COUNT_LIMIT.*many"):
        open_tracer(NOWHERE, 1.0, "1")
