"""Mutated pictures and requests through a real server: each gets a status, and the next good request its answer."""

import random
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2

from clip_search.v1 import embedding_pb2, item_pb2
from demo.server_process import ServerProcess
from tests.faults.fuzz_messages import request_seeds
from tests.faults.fuzz_pictures import all_seeds, mutated
from tests.faults.mutation import mutate
from tests.integration.stubs import SECONDS, Client, image, text
from tests.unit.encoder.hostile_files import jpeg

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

PICTURES = 3_000
REQUESTS = 4_000
_PICTURES_AT_ONCE = 20
_REQUESTS_AT_ONCE = 50
_DIM = 192


@pytest.fixture
def server(bundle: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of its own, which must be running at the end and stop in order."""
    options = ["--thumbnails", "--segment-rows", "64", "--image-pixels-max", "4000000"]
    with ServerProcess.start(bundle, tmp_path / "data", log=tmp_path / "log", options=options) as running:
        yield running
        running.stop()
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    """A channel to it."""
    with grpc.insecure_channel(server.address) as opened:
        yield opened


def _raw(channel: grpc.Channel, path: str) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    """Return a method that takes and gives bytes."""
    return channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)


def _assert_well(client: Client) -> None:
    """Ask for something that must be answered."""
    client.upsert(item_pb2.Item(id="good", content=image(jpeg())))
    assert "good" in client.ids(text("a good query"), image(jpeg()), limit=1_000)


def test_mutated_pictures_never_hurt_the_server(channel: grpc.Channel) -> None:
    """In a batch each is embedded or refused as its own field; nothing is an error of the server."""
    client, seeds = Client(channel), all_seeds()
    embed = _raw(channel, "/clip_search.v1.EmbeddingService/Embed")
    outcomes: set[int] = set()
    for start in range(0, PICTURES, _PICTURES_AT_ONCE):
        inputs = [image(mutated(number, seeds)) for number in range(start, start + _PICTURES_AT_ONCE)]
        sent = embedding_pb2.EmbedRequest(inputs=inputs).SerializeToString()
        results = embedding_pb2.EmbedResponse.FromString(embed(sent, timeout=SECONDS)).results
        assert len(results) == _PICTURES_AT_ONCE
        for place, result in enumerate(results):
            outcomes.add(result.error.code)
            if result.HasField("error"):
                assert result.error.message.startswith(f"inputs[{place}].image: "), result.error.message
        client.upsert(*(item_pb2.Item(id=f"{start}-{at}", content=each) for at, each in enumerate(inputs[:3])))
        _assert_well(client)
    assert outcomes == {code_pb2.OK, code_pb2.INVALID_ARGUMENT}


def test_mutated_requests_never_hurt_the_server(channel: grpc.Channel) -> None:
    """Every method answers or refuses, bytes that are no message included; nothing is an error of the server."""
    client = Client(channel)
    requests = request_seeds(jpeg(), _DIM)
    seeds = {path: [request.SerializeToString() for request in each] for path, each in requests.items()}
    paths = sorted(seeds)
    statuses: set[grpc.StatusCode] = set()
    for number in range(REQUESTS):
        chance = random.Random(number)
        path = chance.choice(paths)
        data = mutate(seeds[path], chance)
        statuses.add(_status_of(_raw(channel, path), data))
        if number % _REQUESTS_AT_ONCE == 0:
            _assert_well(client)
    _assert_well(client)
    wanted = {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
    assert wanted <= {status.name for status in statuses} <= wanted | {"FAILED_PRECONDITION", "UNIMPLEMENTED"}


def _status_of(call: "grpc.UnaryUnaryMultiCallable[bytes, bytes]", data: bytes) -> grpc.StatusCode:
    try:
        call(data, timeout=SECONDS)
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)  # noqa: PT017 - what it is, not whether it is raised
        return error.code()
    return grpc.StatusCode.OK
