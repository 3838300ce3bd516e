import inspect

import pytest
from google.rpc import code_pb2, error_details_pb2

from clip_search_server import errors
from clip_search_server.errors import ClipSearchError, InvalidArgumentError, ResourceExhaustedError
from clip_search_server.rpc.errors import internal_status, status_of, trailers_of

CODES = {
    "UnauthenticatedError": code_pb2.UNAUTHENTICATED,
    "PermissionDeniedError": code_pb2.PERMISSION_DENIED,
    "NotFoundError": code_pb2.NOT_FOUND,
    "AlreadyExistsError": code_pb2.ALREADY_EXISTS,
    "DeadlineExceededError": code_pb2.DEADLINE_EXCEEDED,
    "FailedPreconditionError": code_pb2.FAILED_PRECONDITION,
    "SpaceMismatchError": code_pb2.FAILED_PRECONDITION,
    "UnavailableError": code_pb2.UNAVAILABLE,
    "DataLossError": code_pb2.DATA_LOSS,
    "InternalError": code_pb2.INTERNAL,
    "UnimplementedError": code_pb2.UNIMPLEMENTED,
}


@pytest.mark.parametrize("name", CODES)
def test_each_error_has_its_code_and_keeps_its_message(name: str) -> None:
    """The status says what the error says."""
    status = status_of(getattr(errors, name)("what happened"))
    assert (status.code, status.message) == (CODES[name], "what happened")


def test_no_error_of_the_tree_is_forgotten() -> None:
    """Every exception that a request can meet is mapped here on purpose."""
    tree = {
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, ClipSearchError) and value is not ClipSearchError
    }
    start_up_only = {"BundleError"}
    assert tree - start_up_only == CODES.keys() | {
        "AliasedCollectionError",  # both take names, and are of kinds that are here
        "InvalidArgumentError",
        "ResourceExhaustedError",
        "UnknownCollectionError",
    }


def test_a_bad_argument_names_its_field() -> None:
    """INVALID_ARGUMENT carries google.rpc.BadRequest with the path of the field."""
    status = status_of(InvalidArgumentError("image", "is empty.").within("parts[2].content"))
    detail = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(detail)
    (violation,) = detail.field_violations
    assert (violation.field, violation.description) == ("parts[2].content.image", "is empty.")


def test_a_full_queue_tells_when_to_come_back() -> None:
    """RESOURCE_EXHAUSTED carries RetryInfo and the trailer that gRPC's retry policy reads, in milliseconds."""
    error = ResourceExhaustedError("full", retry_after_seconds=1.5)
    detail = error_details_pb2.RetryInfo()
    assert status_of(error).details[0].Unpack(detail)
    assert detail.retry_delay.ToMilliseconds() == 1500
    assert trailers_of(error) == (("grpc-retry-pushback-ms", "1500"),)


def test_a_bound_that_waiting_does_not_lift_names_no_time() -> None:
    """RESOURCE_EXHAUSTED without RetryInfo: clients that retry are told not to."""
    error = ResourceExhaustedError("as many as may be", retry_after_seconds=None)
    assert not status_of(error).details
    assert trailers_of(error) == (("grpc-retry-pushback-ms", "-1"),)


def test_an_unforeseen_error_shows_nothing_but_an_id() -> None:
    """INTERNAL gives the id that the log has, and no inner workings."""
    status = internal_status("abc")
    assert status.code == code_pb2.INTERNAL
    assert "abc" in status.message
