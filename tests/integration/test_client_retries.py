"""The client's retries against the real server: it is full, says when to come back, and is asked again then."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from clip_search.client import Client
from clip_search.contents import Item, Text
from clip_search.errors import ResourceExhaustedError
from clip_search.v1 import content_pb2, index_pb2, item_pb2
from demo.server_process import ServerProcess
from tests.integration.stubs import Client as Stubs

CALLS_MAX = 4


@pytest.fixture(scope="module")
def small(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that takes few calls at a time."""
    folder = tmp_path_factory.mktemp("small")
    options = ["--calls-max", str(CALLS_MAX)]
    with ServerProcess.start(bundle, folder / "data", log=folder / "log", options=options) as running:
        yield running


@contextlib.contextmanager
def all_calls_taken(server: ServerProcess) -> Iterator[threading.Event]:
    """Keep as many calls open as the server takes, until the event is set."""
    release = threading.Event()

    def one(number: int) -> Iterator[index_pb2.IngestRequest]:
        content = content_pb2.Content(text="a stream")
        yield index_pb2.IngestRequest(index=number, item=item_pb2.Item(id=f"stream-{number}", content=content))
        release.wait(60)

    with grpc.insecure_channel(server.address) as channel:
        streams = [Stubs(channel).index.Ingest(one(number), timeout=60) for number in range(CALLS_MAX)]
        try:
            for number, stream in enumerate(streams):  # one that is answered has come in
                assert next(stream).result.index == number
            yield release
        finally:
            release.set()
            for stream in streams:
                assert list(stream) == []


def test_a_full_server_is_asked_again_when_it_says(small: ServerProcess) -> None:
    """Without retries the caller hears when to come back; with them it is answered, no sooner than that."""
    with all_calls_taken(small) as release:
        with Client(small.address, retry=None) as client, pytest.raises(ResourceExhaustedError) as refused:
            client.stats()
        told_seconds = refused.value.retry_after_seconds
        assert told_seconds is not None
        assert refused.value.request_id
        answered: list[float] = []
        with Client(small.address) as client:
            assert client.health() == "SERVING"  # is connected, and takes no call's place
            started = time.monotonic()
            caller = threading.Thread(target=lambda: answered.append(client.stats().items))
            caller.start()
            caller.join(told_seconds / 2)  # by then it has been refused once
            assert not answered
            release.set()
            caller.join(60)
            assert time.monotonic() - started >= 0.9 * told_seconds
        assert answered


def test_a_write_that_is_sent_again_is_stored_once(small: ServerProcess) -> None:
    """An upsert that was refused at first is there once."""
    with all_calls_taken(small) as release, Client(small.address) as client:
        threading.Timer(0.05, release.set).start()
        (outcome,) = client.upsert([Item("once", Text("a dog"))])
    assert outcome.error is None
    with Client(small.address) as client:
        assert [item.id for item in client.every_item()].count("once") == 1
