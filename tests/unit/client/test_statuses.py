import socket
import threading

import grpc
import pytest
from google.rpc import code_pb2, status_pb2

from clip_search.client import Client
from clip_search.contents import Text
from clip_search.errors import (
    AlreadyExistsError,
    ClipSearchError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    UnexpectedStatusError,
    UnimplementedError,
    UnreachableError,
)
from clip_search.statuses import error_from_call, error_from_status
from tests.unit.client.fake_server import FakeServer, exhausted, invalid


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (code_pb2.NOT_FOUND, NotFoundError),
        (code_pb2.ALREADY_EXISTS, AlreadyExistsError),
        (code_pb2.FAILED_PRECONDITION, FailedPreconditionError),
        (code_pb2.DATA_LOSS, DataLossError),
        (code_pb2.UNIMPLEMENTED, UnimplementedError),
        (code_pb2.RESOURCE_EXHAUSTED, ResourceExhaustedError),
        (code_pb2.INVALID_ARGUMENT, InvalidArgumentError),
        (code_pb2.INTERNAL, UnexpectedStatusError),
    ],
)
def test_every_status_has_its_exception(server: FakeServer, client: Client, code: int, kind: type) -> None:
    """A failed call raises the exception of its status, with the server's words and the status's name."""
    server.fail_with = status_pb2.Status(code=code, message="that is why")
    with pytest.raises(ClipSearchError, match="that is why") as caught:
        client.search("dog")
    assert type(caught.value) is kind
    assert caught.value.code == code_pb2.Code.Name(code)


def test_field_violations_are_kept(server: FakeServer, client: Client) -> None:
    """The fields that the server names can be read from the exception."""
    server.fail_with = invalid("parts[0]: empty", "parts[0].content.text", "must not be empty")
    with pytest.raises(InvalidArgumentError) as caught:
        client.search("")
    assert caught.value.violations == (FieldViolation("parts[0].content.text", "must not be empty"),)


def test_time_to_try_again_is_kept(server: FakeServer, client: Client) -> None:
    """A full queue says when to come back."""
    server.fail_with = exhausted("the queue is full", retry_seconds=3)
    with pytest.raises(ResourceExhaustedError) as caught:
        client.search("dog")
    assert caught.value.retry_after_seconds == pytest.approx(3.0)


def test_a_server_that_is_away_is_unreachable() -> None:
    """Where nothing listens, the message names the address and the command that starts a server."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with Client(address, timeout_seconds=60) as client, pytest.raises(UnreachableError) as caught:
            client.stats()
    assert address in str(caught.value)
    assert "(Connection refused)" in str(caught.value)
    assert "clip-search serve --bundle" in str(caught.value)


def test_a_host_without_address_is_unreachable() -> None:
    """A host name that leads nowhere is told as such."""
    with Client("nowhere.invalid:50051", timeout_seconds=60) as client, pytest.raises(UnreachableError) as caught:
        client.stats()
    assert "nowhere.invalid:50051" in str(caught.value)


def test_a_server_that_is_starting_is_unavailable_but_reachable(server: FakeServer, client: Client) -> None:
    """What the server itself says about its state is passed on, without the advice to start one."""
    server.fail_with = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="reading the index")
    with pytest.raises(UnavailableError, match="reading the index") as caught:
        client.search("dog")
    assert type(caught.value) is UnavailableError


def test_a_silent_server_exceeds_the_deadline(server: FakeServer) -> None:
    """A call ends when its time is over, and says how long that was."""
    server.answer_after = threading.Event()
    with Client(server.address, timeout_seconds=0.2) as client, pytest.raises(DeadlineExceededError) as caught:
        client.search("dog")
    assert str(caught.value) == f"{server.address} did not answer within 0.2 s"


def test_status_of_an_unknown_code_is_still_an_exception() -> None:
    """A code that this client has never heard of keeps its number."""
    error = error_from_status(status_pb2.Status(code=99, message=""))
    assert isinstance(error, UnexpectedStatusError)
    assert error.code == "CODE_99"
    assert str(error) == "the server gave no reason"


def test_an_error_that_is_no_call_keeps_its_words() -> None:
    """Errors of the gRPC library without a status are passed on."""
    error = error_from_call(grpc.RpcError("odd"), server="h:1", timeout_seconds=1)
    assert isinstance(error, UnexpectedStatusError)
    assert str(error) == "odd"


def test_one_bad_input_does_not_fail_its_neighbours(client: Client) -> None:
    """Embedding gives each input its own outcome."""
    good, bad = client.embed([Text("dog"), Text("bad")]).outcomes
    assert good.vector is not None
    assert good.error is None
    assert bad.vector is None
    assert isinstance(bad.error, InvalidArgumentError)
