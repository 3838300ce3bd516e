"""Turns gRPC failures and `google.rpc.Status` messages into the client's exceptions; the only place that does.

It knows nothing of which call failed beyond the server's address and the deadline.
"""

from collections.abc import Iterable

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from clip_search.errors import (
    AlreadyExistsError,
    ClipSearchError,
    ConnectionLostError,
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

__all__ = ["error_from_call", "error_from_status"]

_PLAIN_ERRORS: dict[str, type[ClipSearchError]] = {
    error.code: error
    for error in (
        AlreadyExistsError,
        DataLossError,
        DeadlineExceededError,
        FailedPreconditionError,
        NotFoundError,
        UnavailableError,
        UnimplementedError,
    )
}

# How the gRPC library words the failures it finds itself: there is no other mark that tells them from the server's own.
_NO_CONNECTION_MARKS = ("failed to connect", "errors resolving", "resolution failed", "connect failed")
_LOST_CONNECTION_MARKS = (
    "broken pipe",
    "cancelling all calls",
    "connection reset",
    "end of tcp stream",
    "goaway",
    "keepalive",
    "ping timeout",
    "recvmsg",
    "rst_stream",
    "socket closed",
    "stream removed",
    "transport closed",
)
_LAST_ERROR_MARKS = ("Failed to connect to remote host: ", "last error: UNKNOWN: ", "address lookup failed for ")


def error_from_call(error: grpc.RpcError, *, server: str, timeout_seconds: float) -> ClipSearchError:
    """Say what a failed call means.

    Args:
        error: what a stub's method raised.
        server: the address that was called, for the message.
        timeout_seconds: the deadline that was set, for the message.
    """
    code, details, any_details = _read_call(error)
    if code == "UNAVAILABLE":
        return _unavailable_error(details, server)
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceededError(f"{server} did not answer within {timeout_seconds:g} s")
    return _error(code, details or "the server gave no reason", any_details)


def error_from_status(status: status_pb2.Status) -> ClipSearchError:
    """Say what the status of one item means."""
    code = code_pb2.Code.Name(status.code) if status.code in code_pb2.Code.values() else f"CODE_{status.code}"
    return _error(code, status.message or "the server gave no reason", status.details)


def _read_call(error: grpc.RpcError) -> tuple[str, str, Iterable[AnyMessage]]:
    """Give a failed call's code, message and details."""
    if not isinstance(error, grpc.Call):
        return "UNKNOWN", str(error), ()
    code, details = error.code().name, error.details() or ""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details that contradict the call's own code: the code is what counts
        return code, details, ()
    return code, details, status.details if status else ()


def _unavailable_error(details: str, server: str) -> UnavailableError:
    lowered = details.lower()
    if any(mark in lowered for mark in _NO_CONNECTION_MARKS):
        return UnreachableError(
            f"cannot reach {server} ({_last_part(details)}). Is a server running there? "
            "Start one with: clip-search serve --bundle BUNDLE --data DIR"
        )
    if not details or any(mark in lowered for mark in _LOST_CONNECTION_MARKS):
        return ConnectionLostError(f"lost the connection to {server} ({details or 'no reason given'})")
    return UnavailableError(f"{server} is not available: {details}")


def _last_part(details: str) -> str:
    """Cut the library's chain of causes down to the last one."""
    for mark in _LAST_ERROR_MARKS:
        _, found, cause = details.rpartition(mark)
        if found:
            return cause.strip(" ]")
    return details


def _error(code: str, message: str, details: Iterable[AnyMessage]) -> ClipSearchError:
    if code == "INVALID_ARGUMENT":
        return InvalidArgumentError(message, _violations(details))
    if code == "RESOURCE_EXHAUSTED":
        return ResourceExhaustedError(message, retry_after_seconds=_retry_after_seconds(details))
    if code in _PLAIN_ERRORS:
        return _PLAIN_ERRORS[code](message)
    return UnexpectedStatusError(message, code=code)


def _violations(details: Iterable[AnyMessage]) -> tuple[FieldViolation, ...]:
    found = []
    for detail in details:
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            found += [FieldViolation(each.field, each.description) for each in request.field_violations]
    return tuple(found)


def _retry_after_seconds(details: Iterable[AnyMessage]) -> float | None:
    for detail in details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToTimedelta().total_seconds())
    return None
