"""Traces of a real server, as a collector gets them: a request is followed through the batch that it shares."""

import itertools
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from clip_search.v1 import content_pb2, embedding_pb2, embedding_pb2_grpc, index_pb2, item_pb2, search_pb2
from clip_search.v1.search_pb2_grpc import SearchServiceStub
from demo.server_process import ServerProcess
from tests.integration.collector import Collector, attributes_of, running_collector
from tests.integration.conftest import Png
from tests.integration.stubs import SECONDS, Client, image, stored, text

SEARCH, UPSERT = "clip_search.v1.SearchService/Search", "clip_search.v1.IndexService/Upsert"
EMBED, INGESTED = "clip_search.v1.EmbeddingService/Embed", "clip_search.v1.IndexService/Ingest item"
CALLER = "00f067aa0ba902b7"
#: Other requests keep the tower busy, so that two that come together are likely to share a batch; not certain.
TRIES = 20
WAITS_MAX = 300
SECRET = "zq7secret"


def parent(number: int, *, sampled: bool = True) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a caller whose trace has this number."""
    return (("traceparent", f"00-{number:032x}-{CALLER}-{sampled:02x}"), ("tracestate", f"vendor={SECRET}"))


def number_of(span: Span) -> int:
    """Return the number of a span's trace."""
    return int.from_bytes(span.trace_id)


def start(bundle: Path, folder: Path, collector: Collector, *options: str) -> ServerProcess:
    """Start a server that sends its traces to `collector`."""
    given = ["--trace-endpoint", collector.url, "--log-format", "json", "--log-level", "debug", *options]
    # Sooner than every five seconds, and giving up sooner than after ten, as OpenTelemetry would.
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    return ServerProcess.start(bundle, folder / "data", log=folder / "log", options=given, environment=environment)


def logged(folder: Path) -> list[dict[str, object]]:
    """Return the lines of a server's log."""
    lines = (folder / "log").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def searched(stub: SearchServiceStub, content: content_pb2.Content, metadata: tuple[tuple[str, str], ...]) -> None:
    """Search for a content."""
    request = search_pb2.SearchRequest(parts=[search_pb2.QueryPart(content=content)])
    stub.Search(request, timeout=SECONDS, metadata=metadata)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server of `traced` keeps its data and its log."""
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def traced(bundle: Path, png: Png, folder: Path) -> Iterator[Collector]:
    """What a server sent of calls whose callers want them traced, and of others."""
    with running_collector() as collector, start(bundle, folder, collector, "--trace-ratio", "0") as server:
        with ExitStack() as stack:
            options = [("grpc.use_local_subchannel_pool", 1)]  # Else the two would be one connection.
            channels = [stack.enter_context(grpc.insecure_channel(server.address, options)) for _ in range(3)]
            stubs = [SearchServiceStub(channel) for channel in channels]
            _write(channels[0], png)
            _search_together(channels)
            searched(stubs[0], stored("a picture"), parent(2_000))
            searched(stubs[0], text(f"{SECRET} not sampled"), parent(2_001, sampled=False))
            searched(stubs[0], text(f"{SECRET} nobody asked"), ())
            with pytest.raises(grpc.RpcError):
                searched(stubs[0], stored(f"{SECRET} nobody"), (*parent(2_002), ("x-request-id", "mine")))
            searched(stubs[0], image(png("red")), parent(2_003))
            embed = embedding_pb2_grpc.EmbeddingServiceStub(channels[0])
            inputs = [text(f"{SECRET} {number}") for number in range(60)]
            embed.Embed(embedding_pb2.EmbedRequest(inputs=inputs), timeout=SECONDS, metadata=parent(2_004))
            searched(stubs[0], text(f"{SECRET} last"), parent(2_999))
        collector.wait_for(lambda: any(number_of(span) == 2_999 for span in collector.named(SEARCH)))
        server.stop()
        yield collector


def _write(channel: grpc.Channel, png: Png) -> None:
    """Store items in one request, and in a stream; both are traced."""
    client = Client(channel)
    items = [item_pb2.Item(id=f"{SECRET} {number}", content=text(f"{SECRET} words {number}")) for number in range(30)]
    items.append(item_pb2.Item(id="a picture", content=image(png("blue"))))
    client.index.Upsert(index_pb2.UpsertRequest(items=items), timeout=SECONDS, metadata=parent(1_000))
    requests = (
        index_pb2.IngestRequest(index=at, item=item_pb2.Item(id=f"{SECRET} i{at}", content=text(f"{SECRET} {at} i")))
        for at in range(200)
    )
    assert len(list(client.index.Ingest(requests, timeout=SECONDS, metadata=parent(1_001)))) == 200


def _search_together(channels: Sequence[grpc.Channel]) -> None:
    """Search from two clients at once while a third keeps the tower busy, several times."""
    busy = embedding_pb2_grpc.EmbeddingServiceStub(channels[2])
    barrier = threading.Barrier(2)

    def keep_busy(attempt: int) -> None:
        inputs = [text(f"many words {attempt} {number} " * 8) for number in range(96)]
        busy.Embed(embedding_pb2.EmbedRequest(inputs=inputs), timeout=SECONDS)

    def search(client: int, attempt: int) -> None:
        barrier.wait(SECONDS)
        words = text(f"{SECRET} thing {client} {attempt}")
        searched(SearchServiceStub(channels[client]), words, parent(1 + client + 2 * attempt))

    with ThreadPoolExecutor(3) as pool:
        for attempt in range(TRIES):
            running = [pool.submit(keep_busy, attempt), *(pool.submit(search, client, attempt) for client in (0, 1))]
            for task in running:
                task.result()


def _of_call(collector: Collector, name: str, number: int) -> Span:
    (span,) = [span for span in collector.named(name) if number_of(span) == number]
    return span


def test_two_searches_share_the_span_of_their_batch(traced: Collector) -> None:
    """Of two callers, each search is its caller's child; one batch links to both, and both link to it."""
    shared = [batch for batch in traced.named("text batch") if len({link.trace_id for link in batch.links}) == 2]
    assert shared, "no two searches shared a batch"
    batch = shared[0]
    assert batch.parent_span_id == b""
    notes = attributes_of(batch.attributes)
    assert (notes["clip_search.model"], notes["clip_search.inputs"]) == ("default", 2)
    assert notes["clip_search.units"] >= notes["clip_search.padding_units"] >= 0  # type: ignore[operator]
    members = [span for span in traced.spans if span.span_id in {link.span_id for link in batch.links}]
    assert [member.name for member in members] == ["batch", "batch"]
    for member in members:
        assert [link.span_id for link in member.links] == [batch.span_id]
        assert (member.start_time_unix_nano, member.end_time_unix_nano) != (0, 0)
        search = _of_call(traced, SEARCH, number_of(member))
        assert search.parent_span_id.hex() == CALLER
        assert member.parent_span_id == search.span_id
    assert len({member.trace_id for member in members} - {batch.trace_id}) == 2


def test_a_search_is_told_stage_by_stage(traced: Collector) -> None:
    """The queue, the batch, the search, and in that the ranking and the reading; a picture is decoded before."""
    search = _of_call(traced, SEARCH, 2_999)
    assert search.kind == Span.SPAN_KIND_SERVER
    notes = attributes_of(search.attributes)
    assert notes["rpc.system.name"] == "grpc"
    assert (notes["rpc.method"], notes["rpc.response.status_code"]) == (SEARCH, "OK")
    stages = traced.children(search)
    assert set(stages) == {"queue", "batch", "search"}
    assert set(traced.children(stages["search"])) == {"rank", "read"}
    assert attributes_of(stages["search"].attributes) == {"clip_search.collection": "default"}
    for inner in (*stages.values(), *traced.children(stages["search"]).values()):
        assert search.start_time_unix_nano <= inner.start_time_unix_nano <= inner.end_time_unix_nano
        assert inner.end_time_unix_nano <= search.end_time_unix_nano
    assert set(traced.children(_of_call(traced, SEARCH, 2_003))) == {"decode", "queue", "batch", "search"}
    assert set(traced.children(_of_call(traced, SEARCH, 2_000))) == {"read", "search"}


def test_a_request_of_many_items_is_bounded(traced: Collector) -> None:
    """One item at a time is followed, each commit is told, and of an Embed of sixty texts so much and no more."""
    call = _of_call(traced, UPSERT, 1_000)
    below = Counter(span.name for span in traced.spans if span.parent_span_id == call.span_id)
    assert set(below) <= {"item", "write"}
    assert 1 <= below["item"] < 31
    items = [span for span in traced.named("item") if span.parent_span_id == call.span_id]
    assert {"read", "queue", "batch", "write"} <= set(traced.children(items[0]))
    writes = [span for span in traced.named("write") if number_of(span) == 1_000]
    assert all(set(traced.children(write)) == {"commit"} for write in writes)
    commit = traced.children(writes[0])["commit"]
    assert attributes_of(commit.attributes)["clip_search.operations"] >= 1  # type: ignore[operator]
    embed = _of_call(traced, EMBED, 2_004)
    assert sum(number_of(span) == 2_004 for span in traced.spans) == 1 + 64
    assert attributes_of(embed.attributes)["clip_search.spans_left_out"] == 2 * 60 - 64


def test_items_of_a_stream_are_traces_of_their_own(traced: Collector) -> None:
    """Linked to the stream's caller; the stream, which may last for hours, has no span."""
    items = traced.named(INGESTED)
    assert 1 <= len(items) < 200
    assert len({item.trace_id for item in items}) == len(items)
    for item in items:
        assert item.parent_span_id == b""
        assert [int.from_bytes(link.trace_id) for link in item.links] == [1_001]
        assert {"queue", "batch", "write"} <= set(traced.children(item))
    assert not traced.named("clip_search.v1.IndexService/Ingest")
    overlapping = sorted(items, key=lambda item: item.start_time_unix_nano)
    assert all(a.end_time_unix_nano <= b.start_time_unix_nano for a, b in itertools.pairwise(overlapping))


def test_what_the_caller_does_not_want_is_not_traced(traced: Collector) -> None:
    """Nor, at a ratio of 0, a call whose caller does not say."""
    assert not [span for span in traced.spans if number_of(span) == 2_001]
    assert {number_of(span) for span in traced.named(SEARCH)} == {
        *range(1, 2 * TRIES + 1),
        *(2_000, 2_002, 2_003, 2_999),
    }


def test_spans_and_log_lines_are_found_by_each_other(traced: Collector, folder: Path) -> None:
    """The span has the log's request id, the line has the trace's; the lines of calls that are not traced have none."""
    refused = attributes_of(_of_call(traced, SEARCH, 2_002).attributes)
    assert (refused["clip_search.request_id"], refused["rpc.response.status_code"]) == ("mine", "NOT_FOUND")
    lines = [line for line in logged(folder) if line.get("method") == f"/{SEARCH}"]
    (mine,) = [line for line in lines if line["request_id"] == "mine"]
    assert mine["trace_id"] == f"{2_002:032x}"
    assert sum("trace_id" not in line for line in lines) == 2


def test_no_span_holds_what_callers_sent(traced: Collector) -> None:
    """Texts, ids, names that there are not, and what they send besides `traceparent`."""
    assert len(traced.bodies) > 1
    assert not [body for body in traced.bodies if SECRET.encode() in body]
    assert not [body for body in traced.bodies if b"127.0.0.1" in body]


def test_a_collector_that_is_away_fails_no_call(bundle: Path, tmp_path: Path) -> None:
    """Calls are answered and the server stops in time; the log has one line of it."""
    with running_collector() as collector:
        pass  # From here on nobody listens there.
    with (
        start(bundle, tmp_path, collector, "--trace-ratio", "1") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = SearchServiceStub(channel)
        for number in range(WAITS_MAX):  # Until the first spans were given up, and some more after that.
            searched(stub, text(f"thing {number % 50}"), ())
            if _complaints(tmp_path):
                break
            threading.Event().wait(0.1)
        for number in range(50):
            searched(stub, text(f"another thing {number}"), ())
        server.stop(timeout_s=10)
    (complaint,) = _complaints(tmp_path)
    assert complaint.startswith(f"traces do not arrive at {collector.url}/v1/traces; calls go on, ")


def _complaints(folder: Path) -> list[str]:
    return [str(line["message"]) for line in logged(folder) if line["level"] not in {"DEBUG", "INFO"}]


_WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from clip_search_server.commands import serve
serve(sys.argv[1:])
"""


def test_traces_without_their_extra_are_a_usage_error(bundle: Path, tmp_path: Path) -> None:
    """One sentence with what to install, before anything is opened."""
    options = ["--bundle", str(bundle), "--data", str(tmp_path / "data"), "--trace-endpoint", "http://localhost:4318"]
    command = [sys.executable, "-c", _WITHOUT, *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last == "Error: --trace-endpoint needs the [tracing] extra: pip install 'clip-search[tracing]'"
    assert not (tmp_path / "data").exists()
