"""Which calls are traced, and what their spans say in OpenTelemetry's terms."""

import time
from collections.abc import Mapping

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, StatusCode

from clip_search_server.spans import Stage, within
from clip_search_server.telemetry.tracing import RequestTracer

SEARCH = "/clip_search.v1.SearchService/Search"
INGEST = "/clip_search.v1.IndexService/Ingest"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{CALLER}-01"
NOT_SAMPLED = f"00-{TRACE}-{CALLER}-00"


class Kept:
    """A tracer, and the spans that were sent."""

    def __init__(self, ratio: float = 0.0, roll: float = 0.5) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(ALWAYS_ON, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = RequestTracer(provider, ratio, lambda _: None, roll=lambda: roll)

    def spans(self) -> Mapping[str, ReadableSpan]:
        """Return those that have ended, by name."""
        return {span.name: span for span in self._exporter.get_finished_spans()}


def _id(number: int) -> str:
    return f"{number:016x}"


def test_a_call_goes_on_with_its_callers_trace() -> None:
    """As the caller's child, with the attributes that tell a call of gRPC, the log's id, and the code."""
    kept = Kept()
    call = kept.tracer.call(SEARCH, SAMPLED, "mine")
    assert call is not None
    assert call.trace_id == TRACE
    call.finish("OK")
    span = kept.spans()["clip_search.v1.SearchService/Search"]
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", _id(span.parent.span_id)) == (TRACE, CALLER)
    assert span.kind is SpanKind.SERVER
    assert dict(span.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": "clip_search.v1.SearchService/Search",
        "rpc.response.status_code": "OK",
        "clip_search.request_id": "mine",
    }


@pytest.mark.parametrize(
    ("ratio", "roll", "parent", "traced"),
    [
        (0.0, 0.0, None, False),
        (0.5, 0.49, None, True),
        (0.5, 0.5, None, False),
        (1.0, 0.999, None, True),
        (1.0, 0.0, NOT_SAMPLED, False),
        (0.0, 0.9, SAMPLED, True),
    ],
)
def test_callers_decide_and_else_the_ratio(ratio: float, roll: float, parent: str | None, traced: bool) -> None:
    """A caller's word counts either way, for calls and for the items of streams."""
    tracer = Kept(ratio, roll).tracer
    assert (tracer.call(SEARCH, parent, "") is not None) is traced
    stream = tracer.stream(INGEST, parent, "")
    assert (stream is not None and stream.item("item") is not None) is traced


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "yes",
        b"\x00\x01",
        SAMPLED.upper(),
        SAMPLED + "-more",
        SAMPLED + "\n",
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{CALLER}",
        SAMPLED * 1_000,
    ],
)
def test_nonsense_is_no_caller(parent: object) -> None:
    """Then the ratio decides, and the trace is a new one."""
    assert Kept(ratio=0.0).tracer.call(SEARCH, parent, "") is None
    call = Kept(ratio=1.0).tracer.call(SEARCH, parent, "")
    assert call is not None
    assert call.trace_id not in {TRACE, "0" * 32}


def test_a_later_version_of_the_header_is_understood() -> None:
    """As far as it is the same, which is what the specification asks for."""
    call = Kept().tracer.call(SEARCH, f"01-{TRACE}-{CALLER}-01-what.later", "")
    assert call is not None
    assert call.trace_id == TRACE


def test_stages_are_children_with_times_and_notes() -> None:
    """Each below the one that it is a part of, when it was, under names of this project."""
    kept = Kept(ratio=1.0)
    call = kept.tracer.call(SEARCH, None, "")
    assert call is not None
    at = time.monotonic()
    with within(call), Stage("search", collection="default"):
        queue = call.child("queue", at - 2.0)
        assert queue is not None
        queue.note(operations=3)
        queue.end(at - 0.5)
    call.finish("OK")
    spans = kept.spans()
    top, search, queued = (spans[name] for name in ("clip_search.v1.SearchService/Search", "search", "queue"))
    assert search.parent == queued.parent == top.context
    assert dict(search.attributes or {}) == {"clip_search.collection": "default"}
    assert dict(queued.attributes or {}) == {"clip_search.operations": 3}
    assert queued.start_time is not None
    assert queued.end_time is not None
    assert (queued.end_time - queued.start_time) / 1e9 == pytest.approx(1.5, abs=1e-6)
    assert abs(time.time_ns() - queued.end_time) / 1e9 < 30


def test_of_an_error_its_kind_is_kept() -> None:
    """No message, which may quote the caller, and no traceback; who went away is no failure."""
    kept = Kept(ratio=1.0)
    call = kept.tracer.call(SEARCH, None, "")
    assert call is not None
    for name, error in (("failed", ValueError("secret")), ("left", KeyboardInterrupt("secret"))):
        stage = call.child(name)
        assert stage is not None
        stage.end(error=error)
    call.finish("INTERNAL")
    spans = kept.spans()
    assert (spans["failed"].attributes or {})["error.type"] == "ValueError"
    assert spans["failed"].status.status_code is StatusCode.ERROR
    assert spans["left"].status.status_code is StatusCode.UNSET
    assert all("secret" not in span.to_json() and not span.events for span in spans.values())


@pytest.mark.parametrize(
    ("code", "is_failure"), [("OK", False), ("NOT_FOUND", False), ("CANCELLED", False), ("UNAVAILABLE", True)]
)
def test_a_call_failed_where_the_server_did(code: str, is_failure: bool) -> None:
    """What callers did wrong is no failure of the server's."""
    kept = Kept(ratio=1.0)
    call = kept.tracer.call(SEARCH, None, "")
    assert call is not None
    call.finish(code)
    (span,) = kept.spans().values()
    assert (span.status.status_code is StatusCode.ERROR) is is_failure


def test_a_batch_is_linked_with_all_that_are_in_it() -> None:
    """It is a trace of its own, whatever the ratio says; links go both ways."""
    kept = Kept()
    calls = [kept.tracer.call(SEARCH, f"00-{number:032x}-{CALLER}-01", "") for number in (1, 2)]
    members = [call.child(f"batch {at}") for at, call in enumerate(calls) if call is not None]
    parts = [member for member in members if member is not None]
    joint = parts[0].joint("text batch", parts, time.monotonic(), inputs=2)
    assert joint is not None
    for span in (joint, *parts):
        span.end()
    spans = kept.spans()
    batch = spans["text batch"]
    assert batch.parent is None
    assert [link.context for link in batch.links] == [spans["batch 0"].context, spans["batch 1"].context]
    assert all([link.context for link in spans[f"batch {at}"].links] == [batch.context] for at in (0, 1))
    assert len({span.context.trace_id for span in spans.values()}) == 3


def test_a_call_has_so_many_spans_and_no_more() -> None:
    """What is left out is counted."""
    kept = Kept(ratio=1.0)
    call = kept.tracer.call(SEARCH, None, "")
    assert call is not None
    stages = [call.child(f"{number}") for number in range(70)]
    assert [stage is not None for stage in stages] == [True] * 64 + [False] * 6
    call.finish("OK")
    (span,) = kept.spans().values()
    assert (span.attributes or {})["clip_search.spans_left_out"] == 6


def test_a_stream_is_no_span_and_its_items_are_traces() -> None:
    """Each links to the stream's caller; what is done for the stream as a whole is in none."""
    kept = Kept()
    stream = kept.tracer.stream(INGEST, SAMPLED, "mine")
    assert stream is not None
    assert stream.trace_id == TRACE
    with within(stream), Stage("write") as write:
        assert write is None
    items = [stream.item("item") for _ in range(2)]
    assert len({item.trace_id for item in items if item is not None}) == 2
    for item in items:
        assert item is not None
        item.end()
    stream.finish("OK")
    (span,) = kept.spans().values()  # the second of two of the same name
    assert span.name == "clip_search.v1.IndexService/Ingest item"
    assert span.parent is None
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [TRACE]
    assert (span.attributes or {})["clip_search.request_id"] == "mine"


def test_opentelemetry_that_is_switched_off_traces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own variable."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracer = Kept(ratio=1.0).tracer
    assert tracer.call(SEARCH, SAMPLED, "") is None
    stream = tracer.stream(INGEST, SAMPLED, "")
    assert stream is not None
    assert stream.item("item") is None
