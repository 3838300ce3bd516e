"""Which calls gRPC sends again, when, and how often; against a server that counts them."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from google.rpc import code_pb2, status_pb2
from grpc_health.v1 import health_pb2

from clip_search import methods
from clip_search.async_client import AsyncClient
from clip_search.client import Client
from clip_search.contents import Image, Item, Text
from clip_search.errors import (
    AlreadyExistsError,
    ClipSearchError,
    DeadlineExceededError,
    ResourceExhaustedError,
    UnavailableError,
    UnreachableError,
)
from clip_search.filters import Attribute
from clip_search.retries import RetryPolicy, service_config
from clip_search.v1 import collection_pb2, embedding_pb2, index_pb2, search_pb2, server_pb2
from tests.unit.client.fake_server import FakeServer

QUICK = RetryPolicy(backoff_initial_seconds=0.01, backoff_seconds_max=0.02)
STARTING = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="reading the index")
FULL = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="the queue is full")

REPEATED: dict[str, Callable[[Client], Any]] = {
    "Search": lambda client: client.search("dog"),
    "Classify": lambda client: client.classify(Text("dog"), ["dog"]),
    "Embed": lambda client: client.embed([Text("dog")]),
    "Upsert": lambda client: client.upsert([Item("a", Text("dog"))]),
    "Delete": lambda client: client.delete(["a"]),
    "Delete by filter": lambda client: client.delete_matching(Attribute("a").exists()),
    "GetItems": lambda client: client.get_items(["a"]),
    "ListItems": lambda client: list(client.every_item()),
    "GetThumbnails": lambda client: list(client.thumbnails(["a"])),
    "GetStats": lambda client: client.stats(),
    "CreateSnapshot": lambda client: client.snapshot(),
    "GetServerInfo": lambda client: client.server_info(),
}
SENT_ONCE: dict[str, Callable[[Client], Any]] = {
    "CreateCollection": lambda client: client.create_collection("pets"),
    "DeleteCollection": lambda client: client.delete_collection("pets"),
    "SetAlias": lambda client: client.set_alias("pets", "default"),
}


def test_the_methods_are_those_of_the_api() -> None:
    """Every method of the API is described once, with its own messages."""
    files = (collection_pb2, embedding_pb2, index_pb2, search_pb2, server_pb2, health_pb2)
    offered = {
        f"/{service.full_name}/{method.name}": (method.input_type.full_name, method.output_type.full_name)
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if service.full_name != "grpc.health.v1.Health" or method.name == "Check"
    }
    described = {
        each.path: (each.request.DESCRIPTOR.full_name, each.response.DESCRIPTOR.full_name) for each in methods.METHODS
    }
    assert described == offered
    assert len(methods.METHODS) == len(described)


@pytest.mark.parametrize("call", REPEATED.values(), ids=REPEATED)
def test_what_may_come_twice_is_sent_again(server: FakeServer, call: Callable[[Client], Any]) -> None:
    """A server that cannot take a call at first is asked again, and the caller hears nothing of it."""
    server.fail_with, server.failures_left = STARTING, 3
    with Client(server.address, retry=QUICK) as client:
        call(client)
    assert len(server.requests) == 4


@pytest.mark.parametrize("call", SENT_ONCE.values(), ids=SENT_ONCE)
def test_what_must_come_once_is_sent_once(server: FakeServer, call: Callable[[Client], Any]) -> None:
    """A call whose second arrival would be answered otherwise than its first is never sent again."""
    server.fail_with, server.failures_left = STARTING, 3
    with Client(server.address, retry=QUICK) as client, pytest.raises(UnavailableError, match="reading the index"):
        call(client)
    assert len(server.requests) == 1


async def test_the_asynchronous_client_retries_too(server: FakeServer) -> None:
    """Retries are gRPC's own, under either client."""
    server.fail_with, server.failures_left = STARTING, 3
    async with AsyncClient(server.address, retry=QUICK) as client:
        assert (await client.stats()).collection == "default"
    assert len(server.requests) == 4


def test_attempts_are_bounded(server: FakeServer, client: Client) -> None:
    """After the last attempt the caller hears what the server said."""
    server.fail_with = STARTING
    with Client(server.address, retry=QUICK) as quick, pytest.raises(UnavailableError, match="reading the index"):
        quick.stats()
    assert len(server.requests) == QUICK.attempts_max


def test_retries_can_be_switched_off(server: FakeServer) -> None:
    """Without a policy every call is sent once."""
    server.fail_with = STARTING
    with Client(server.address, retry=None) as client, pytest.raises(UnavailableError):
        client.stats()
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [code_pb2.ALREADY_EXISTS, code_pb2.INTERNAL, code_pb2.DATA_LOSS, code_pb2.ABORTED])
def test_other_failures_are_not_retried(server: FakeServer, code: int) -> None:
    """What the server refuses for another reason, it would refuse again."""
    server.fail_with = status_pb2.Status(code=code, message="no")
    with Client(server.address, retry=QUICK) as client, pytest.raises(ClipSearchError):
        client.stats()
    assert len(server.requests) == 1


def test_a_server_that_names_a_time_is_asked_again_then(server: FakeServer) -> None:
    """`grpc-retry-pushback-ms` counts instead of the backoff."""
    server.fail_with, server.failures_left, server.trailers = FULL, 1, (("grpc-retry-pushback-ms", "700"),)
    started = time.monotonic()
    with Client(server.address, retry=QUICK) as client:
        client.stats()
    assert time.monotonic() - started >= 0.7
    assert len(server.requests) == 2


def test_a_server_that_says_never_is_not_asked_again(server: FakeServer) -> None:
    """A negative pushback ends it at once."""
    server.fail_with, server.trailers = FULL, (("grpc-retry-pushback-ms", "-1"),)
    with Client(server.address, retry=QUICK) as client, pytest.raises(ResourceExhaustedError, match="queue is full"):
        client.stats()
    assert len(server.requests) == 1


def test_the_deadline_holds_over_all_attempts(server: FakeServer) -> None:
    """A server that asks to wait longer than the caller will is not waited for longer."""
    server.fail_with, server.trailers = FULL, (("grpc-retry-pushback-ms", "60000"),)
    started = time.monotonic()
    with Client(server.address, timeout_seconds=0.5) as client, pytest.raises(DeadlineExceededError):
        client.stats()
    assert time.monotonic() - started < 30
    assert len(server.requests) == 1


def test_large_requests_are_sent_again_too(server: FakeServer) -> None:
    """GRPC keeps a picture for the next attempt, though it is larger than gRPC's own bound."""
    server.fail_with, server.failures_left = STARTING, 2
    with Client(server.address, retry=QUICK) as client:
        (outcome,) = client.upsert([Item("a", Image(bytes(3_000_000)))])
    assert outcome.error is None
    assert len(server.requests) == 3


def test_a_name_that_is_taken_is_told_as_such(server: FakeServer) -> None:
    """A collection that exists is an error of its own, never mistaken for one's own earlier attempt."""
    server.fail_with = status_pb2.Status(code=code_pb2.ALREADY_EXISTS, message="pets is there")
    with Client(server.address) as client, pytest.raises(AlreadyExistsError, match="pets is there"):
        client.create_collection("pets")


def free_address() -> str:
    """Give an address where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


def test_a_server_that_is_away_may_be_waited_for() -> None:
    """With `wait_for_ready` the deadline decides; without, the caller hears at once."""
    address = free_address()
    with Client(address, retry=None) as client, pytest.raises(UnreachableError):
        client.stats()
    with Client(address, timeout_seconds=0.3, wait_for_ready=True) as client, pytest.raises(DeadlineExceededError):
        client.stats()


def test_a_server_that_comes_in_time_is_found() -> None:
    """A call that waits is answered once the server is there."""
    address = free_address()
    answers: list[str] = []
    with Client(address, timeout_seconds=60, wait_for_ready=True) as client:
        caller = threading.Thread(target=lambda: answers.append(client.stats().collection))
        caller.start()
        caller.join(timeout=0.3)
        server = FakeServer(address=address)
        caller.join(timeout=60)
        server.stop()
    assert answers == ["default"]


def test_the_service_config_names_repeatable_methods_alone() -> None:
    """What gRPC is told is the policy, for those methods."""
    (only,) = json.loads(service_config(RetryPolicy(attempts_max=3), methods.METHODS))["methodConfig"]
    assert {each["method"] for each in only["name"]} == {each.name for each in methods.METHODS if each.repeatable}
    assert only["retryPolicy"] == {
        "maxAttempts": 3,
        "initialBackoff": "0.100000000s",
        "maxBackoff": "2.000000000s",
        "backoffMultiplier": 3.0,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }


@pytest.mark.parametrize(
    "wrong", [{"attempts_max": 1}, {"attempts_max": 6}, {"backoff_initial_seconds": 0}, {"backoff_multiplier": -1}]
)
def test_a_policy_that_grpc_would_not_take_is_refused(wrong: dict[str, Any]) -> None:
    """GRPC would ignore the whole service config without a word."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


async def test_calls_run_side_by_side_over_asyncio(server: FakeServer) -> None:
    """A slow answer keeps no other call waiting."""
    server.answer_after = threading.Event()
    async with AsyncClient(server.address, timeout_seconds=60) as client:
        calls = [asyncio.create_task(client.search("dog")) for _ in range(3)]
        while len(server.requests) < 3:  # noqa: ASYNC110  # they come in threads of the server
            await asyncio.sleep(0.01)
        server.answer_after.set()
        await asyncio.gather(*calls)


async def test_both_clients_offer_the_same() -> None:
    """Whatever one client can do, the other can."""
    offered, awaited = ({name for name in dir(kind) if not name.startswith("_")} for kind in (Client, AsyncClient))
    assert offered == awaited


async def test_pages_are_iterated_over(server: FakeServer) -> None:
    """Several pages come as one asynchronous iterator."""
    async with AsyncClient(server.address) as client:
        await client.upsert([Item(f"{number:02}", Text("dog")) for number in range(25)])
        assert [item.id async for item in client.every_item(page_size=10)] == [f"{number:02}" for number in range(25)]
