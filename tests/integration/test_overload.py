"""More than the server can do: refused at once with a time to come back, and normal again right after.

Several tests are named for what users of other servers complained of; the numbers are those of their issues.
"""

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

from clip_search.v1 import (
    embedding_pb2,
    embedding_pb2_grpc,
    index_pb2,
    index_pb2_grpc,
    item_pb2,
    search_pb2,
    search_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
)
from demo.server_process import ServerProcess
from tests.integration.conftest import Png
from tests.integration.stubs import SECONDS, Client, image, text, vector

CALLS_MAX = 6
QUEUE_LENGTH_MAX = 4
DIM = 192


@pytest.fixture(scope="module")
def small(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that takes few calls at a time and lets few inputs wait."""
    folder = tmp_path_factory.mktemp("small")
    options = ["--calls-max", str(CALLS_MAX), "--queue-length-max", str(QUEUE_LENGTH_MAX)]
    options += ["--bytes-in-flight-max", "20000000"]
    with ServerProcess.start(bundle, folder / "data", log=folder / "log", options=options) as running:
        yield running


@pytest.fixture
def channel_to_small(small: ServerProcess) -> Iterator[grpc.Channel]:
    """A channel to the small server."""
    with grpc.insecure_channel(small.address) as opened:
        yield opened


def _noise(side: int = 3_000) -> bytes:
    """A picture that takes some time to decode."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(5).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def _pushback(error: grpc.RpcError) -> tuple[float, float]:
    """Return the milliseconds after which to come back, as the details and as the trailer tell it."""
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    assert status is not None
    detail = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(detail)
    trailers = {str(key): value for key, value in error.trailing_metadata() or ()}
    return detail.retry_delay.ToMilliseconds(), float(trailers["grpc-retry-pushback-ms"])


def _healthy(channel: grpc.Channel) -> bool:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


class Streams:
    """Ingest streams that stay open until told."""

    def __init__(self, channel: grpc.Channel, count: int) -> None:
        self._end = threading.Event()
        stub = index_pb2_grpc.IndexServiceStub(channel)
        self._calls = [stub.Ingest(self._requests(number), timeout=SECONDS) for number in range(count)]
        for call in self._calls:
            assert next(call).result.HasField("stored")

    def _requests(self, number: int) -> Iterator[index_pb2.IngestRequest]:
        yield index_pb2.IngestRequest(item=item_pb2.Item(id=f"{number}", content=vector([1.0] * DIM)))
        self._end.wait(SECONDS)

    def close(self) -> None:
        """End them in order."""
        self._end.set()
        for call in self._calls:
            assert list(call) == []


def test_calls_beyond_the_limit_are_refused_at_once(channel_to_small: grpc.Channel) -> None:
    """The status says which limit and when to come back; health is still answered; a freed place is taken again."""
    info = server_pb2_grpc.ServerServiceStub(channel_to_small)
    streams = Streams(channel_to_small, CALLS_MAX)
    started = time.monotonic()
    with pytest.raises(grpc.RpcError) as refused:
        info.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=SECONDS)
    assert time.monotonic() - started < 1
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "calls_max" in str(refused.value.details())
    details_ms, trailer_ms = _pushback(refused.value)
    assert details_ms == pytest.approx(trailer_ms, abs=1)
    assert trailer_ms > 0
    assert _healthy(channel_to_small)
    streams.close()
    limits = info.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=SECONDS).limits
    assert (limits.calls_max, limits.queue_length_max) == (CALLS_MAX, QUEUE_LENGTH_MAX)


def test_streams_beyond_the_limit_are_refused_at_once(channel: grpc.Channel) -> None:
    """The seventeenth is told which limit it met and when to come back; an ended one makes room."""
    streams = Streams(channel, 16)
    stub = index_pb2_grpc.IndexServiceStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Ingest(iter([index_pb2.IngestRequest()]), timeout=SECONDS))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "ingest_streams_max" in str(refused.value.details())
    assert _pushback(refused.value)[1] > 0
    streams.close()
    Client(channel).delete(*(f"{number}" for number in range(16)))
    Streams(channel, 1).close()
    Client(channel).delete("0")


def test_a_full_queue_refuses_at_once_and_loses_nothing(small: ServerProcess) -> None:
    """Of many pictures sent at one time each is answered or refused with a time to come back; then all is as before."""
    picture = _noise()
    with grpc.insecure_channel(small.address) as first, grpc.insecure_channel(small.address) as second:
        stubs = [search_pb2_grpc.SearchServiceStub(channel) for channel in (first, second)]
        parts = [search_pb2.QueryPart(content=image(picture))] * 3
        outcomes: list[grpc.RpcError | None] = []

        def ask(number: int) -> None:
            try:
                stubs[number % 2].Search(search_pb2.SearchRequest(parts=parts), timeout=SECONDS)
                outcomes.append(None)
            except grpc.RpcError as error:
                outcomes.append(error)

        with ThreadPoolExecutor(CALLS_MAX) as pool:
            list(pool.map(ask, range(3 * CALLS_MAX)))
        refused = [outcome for outcome in outcomes if outcome is not None]
        assert None in outcomes
        assert refused
        for error in refused:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert _pushback(error)[1] > 0
        assert Client(first).search(text("and now for something else")).space_id


def test_expired_calls_end_as_such_and_leave_no_trace(channel: grpc.Channel, png: Png) -> None:
    """With hardly any time calls are DEADLINE_EXCEEDED, and the next one is answered.

    gRPC's client looks at its clock about once a millisecond, so that an answer may come before it.
    """
    stub = search_pb2_grpc.SearchServiceStub(channel)
    late = []
    for number in range(20):
        part = search_pb2.QueryPart(content=text(f"too late {number}"))
        try:
            stub.Search(search_pb2.SearchRequest(parts=[part]), timeout=1e-4)
        except grpc.RpcError as error:
            late.append(error.code())
    assert set(late) == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert len(late) >= 10
    assert Client(channel).search(image(png("red"))).space_id


def test_one_pixel_does_not_end_embedding(channel: grpc.Channel, png: Png) -> None:
    """After a 1 x 1 picture, in a batch with others, health and embedding are what they were (Infinity #609)."""
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    inputs = [image(png("red", size)) for size in ((60, 40), (1, 1), (1, 2), (60, 40))]
    for _ in range(3):
        results = stub.Embed(embedding_pb2.EmbedRequest(inputs=inputs), timeout=SECONDS).results
        assert all(result.HasField("embedding") for result in results)
        assert results[0].embedding.values == pytest.approx(results[3].embedding.values, abs=1e-5)
    assert _healthy(channel)


def test_a_bad_picture_fails_alone(channel: grpc.Channel, png: Png) -> None:
    """One bad input of a request, or of another client at the same time, fails nobody else's (LitServe #340)."""
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    good, bad = image(png("blue")), image(png("blue")[:50])

    def embed(_: int) -> list[bool]:
        answer = stub.Embed(embedding_pb2.EmbedRequest(inputs=[good, bad, good]), timeout=SECONDS)
        return [result.HasField("embedding") for result in answer.results]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(embed, range(24))) == [[True, False, True]] * 24


def test_messages_above_four_megabytes_are_served(channel: grpc.Channel) -> None:
    """Our limit is not gRPC's default (Triton #5840), and what exceeds ours is refused and nothing else happens."""
    picture = _noise(4_000)
    assert len(picture) > 4 * 2**20
    client = Client(channel)
    assert client.search(image(picture)).space_id
    with pytest.raises(grpc.RpcError) as refused:
        client.search(text("x" * (65 * 2**20)))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client.search(text("still there")).space_id


def test_bytes_of_requests_in_flight_are_bounded(small: ServerProcess) -> None:
    """Large requests beyond the bound are refused with a time to come back, so memory does not follow the senders."""
    items = [item_pb2.Item(id=f"{number}", content=text("w"), thumbnail=bytes(250_000)) for number in range(50)]
    request = index_pb2.UpsertRequest(items=items)

    def upsert(_: int) -> grpc.RpcError | None:
        with grpc.insecure_channel(small.address) as channel:
            try:
                index_pb2_grpc.IndexServiceStub(channel).Upsert(request, timeout=SECONDS)
            except grpc.RpcError as error:
                return error
        return None

    with ThreadPoolExecutor(CALLS_MAX) as pool:
        outcomes = list(pool.map(upsert, range(CALLS_MAX)))
    assert None in outcomes
    refused = [error for error in outcomes if error is not None]
    assert refused
    for error in refused:
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "bytes_in_flight_max" in str(error.details())
        assert _pushback(error)[1] > 0


def test_ten_thousand_items_go_through_one_stream(channel_to_small: grpc.Channel) -> None:
    """No size of a job is too large, and none times out for waiting in line (Marqo #62, #411)."""
    vectors = np.random.default_rng(3).standard_normal((10_000, DIM)).astype(np.float32)
    names = [f"many/{number}" for number in range(len(vectors))]
    requests = (
        index_pb2.IngestRequest(index=number, item=item_pb2.Item(id=name, content=vector(values.tolist())))
        for number, (name, values) in enumerate(zip(names, vectors, strict=True))
    )
    stub = index_pb2_grpc.IndexServiceStub(channel_to_small)
    answers = [answer.result for answer in stub.Ingest(requests, timeout=100)]
    assert [answer.index for answer in answers] == list(range(len(names)))
    assert all(answer.HasField("stored") for answer in answers)


def test_bytes_that_are_no_message_name_nothing_but_the_request(channel: grpc.Channel) -> None:
    """Garbage instead of a message is INVALID_ARGUMENT, for every method, and the next request is answered."""
    for method in ("SearchService/Search", "IndexService/Upsert", "EmbeddingService/Embed"):
        call: Callable[..., Any] = channel.unary_unary(f"/clip_search.v1.{method}")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"\xff\xff\xff\xff not a message", timeout=SECONDS)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert Client(channel).search(text("a good query")).space_id
