"""An OpenTelemetry collector on loopback that keeps what it is sent: OTLP over HTTP, as its specification has it."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["Collector", "attributes_of", "running_collector"]

Value = str | bool | int | float
_WAITS_MAX = 300


class Collector:
    """What was sent.

    Attributes:
        url: where it listens.
        spans: every span, in the order they came.
        resources: what each request said of its sender.
        headers: of each request.
        bodies: the bytes of each request.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Span] = []
        self.resources: list[dict[str, Value]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self._came = threading.Event()

    def named(self, name: str) -> list[Span]:
        """Return the spans of this name."""
        return [span for span in self.spans if span.name == name]

    def children(self, parent: Span) -> dict[str, Span]:
        """Return the spans right below another, by name; of the same name the last."""
        return {span.name: span for span in self.spans if span.parent_span_id == parent.span_id}

    def wait_for(self, what: Callable[[], object]) -> None:
        """Return once `what` returns something true; fail where it does not within half a minute."""
        for _ in range(_WAITS_MAX):
            if what():
                return
            self._came.wait(0.1)
            self._came.clear()
        raise AssertionError("what was waited for did not come")

    def take(self, headers: dict[str, str], body: bytes) -> None:
        """Keep a request."""
        request = ExportTraceServiceRequest.FromString(body)
        self.headers.append(headers)
        self.bodies.append(body)
        for of_resource in request.resource_spans:
            self.resources.append(attributes_of(of_resource.resource.attributes))
            for of_scope in of_resource.scope_spans:
                self.spans += of_scope.spans
        self._came.set()


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    """Return attributes as a dictionary."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "") for pair in pairs}


@contextmanager
def running_collector(port: int = 0) -> Iterator[Collector]:
    """Run a collector as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """Take spans."""
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            collector.take({name.lower(): value for name, value in self.headers.items()}, body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
