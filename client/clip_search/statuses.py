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
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnexpectedStatusError,
    UnimplementedError,
    UnreachableError,
)

__all__ = ["error_from_call", "error_from_status"]

_REQUEST_ID_KEY = "x-request-id"

_PLAIN_ERRORS: dict[str, type[ClipSearchError]] = {
    error.code: error
    for error in (
        AlreadyExistsError,
        DataLossError,
        DeadlineExceededError,
        FailedPreconditionError,
        NotFoundError,
        PermissionDeniedError,
        UnauthenticatedError,
        UnavailableError,
        UnimplementedError,
    )
}

# How the gRPC library words the failures it finds itself: there is no other mark that tells them from the server's own.
_NO_CONNECTION_MARKS = (
    "failed to connect",
    "handshake failed",
    "verification check failed",
    "errors resolving",
    "resolution failed",
    "connect failed",
)
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
# What the library's words about a failed handshake mean, the first that fits.
_HANDSHAKE_ADVICE = (
    ("certificate has expired", "the server's certificate has expired and must be renewed there"),
    ("certificate is not yet valid", "the server's certificate is not valid yet; compare the clocks"),
    (
        "hostname verification",
        (
            "the server's certificate is made out to another name: use that name as the address, or say which it is "
            "(--tls-server-name, TlsOptions(server_name=…))"
        ),
    ),
    (
        "certificate_verify_failed",
        (
            "nobody whom this client trusts vouches for the server's certificate: name the file of who does "
            "(--tls-ca, TlsOptions(ca=…))"
        ),
    ),
    ("wrong_version_number", "the server speaks no TLS: leave out --tls… (tls=None)"),
    (
        "socket closed",
        (
            "the server ended the connection at once; it may want TLS (--tls, tls=TlsOptions(…)), or a certificate of "
            "the client that it trusts (--tls-certificate, --tls-key)"
        ),
    ),
)
# Under which a connection that breaks in the middle of a call may be told, too.
_CODES_OF_BROKEN_STREAMS = {"CANCELLED", "INTERNAL", "UNKNOWN"}
_LAST_ERROR_MARKS = ("Failed to connect to remote host: ", "last error: UNKNOWN: ", "address lookup failed for ")


def error_from_call(error: grpc.RpcError, *, server: str, timeout_seconds: float, tls: bool = False) -> ClipSearchError:
    """Say what a failed call means.

    Args:
        error: what a stub's method raised.
        server: the address that was called, for the message.
        timeout_seconds: the deadline that was set, for the message.
        tls: whether the connection is encrypted.
    """
    code, details, any_details = _read_call(error)
    explained = _explained(code, details, any_details, server, timeout_seconds, tls=tls)
    explained.request_id = _request_id(error)
    return explained


def _explained(
    code: str, details: str, any_details: Iterable[AnyMessage], server: str, timeout_seconds: float, *, tls: bool
) -> ClipSearchError:
    lost = any(mark in details.lower() for mark in _LOST_CONNECTION_MARKS)
    if code == "UNAVAILABLE":
        return _unavailable_error(details, server, lost=lost or not details, tls=tls)
    if code in _CODES_OF_BROKEN_STREAMS and lost:
        return _lost(server, details)
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceededError(f"{server} did not answer within {timeout_seconds:g} s")
    return _error(code, details or "the server gave no reason", any_details)


def error_from_status(status: status_pb2.Status) -> ClipSearchError:
    """Say what the status of one item means."""
    code = code_pb2.Code.Name(status.code) if status.code in code_pb2.Code.values() else f"CODE_{status.code}"
    return _error(code, status.message or "the server gave no reason", status.details)


def _read_call(error: grpc.RpcError) -> tuple[str, str, Iterable[AnyMessage]]:
    """Give a failed call's code, message and details."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return "UNKNOWN", str(error), ()
    code, details = error.code().name, error.details() or ""
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # either kind has what it asks for
    except ValueError:  # details that contradict the call's own code: the code is what counts
        return code, details, ()
    return code, details, status.details if status else ()


def _request_id(error: grpc.RpcError) -> str:
    """Give the id that the server's log has the call under; empty where it sent none."""
    trailers = error.trailing_metadata() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    for key, value in trailers or ():
        if key == _REQUEST_ID_KEY:
            return str(value)
    return ""


def _unavailable_error(details: str, server: str, *, lost: bool, tls: bool) -> UnavailableError:
    lowered = details.lower()
    if any(mark in lowered for mark in _NO_CONNECTION_MARKS):
        return UnreachableError(f"cannot reach {server}{_why_unreachable(details, tls=tls)}")
    return _lost(server, details) if lost else UnavailableError(f"{server} is not available: {details}")


def _why_unreachable(details: str, *, tls: bool) -> str:
    for mark, advice in _HANDSHAKE_ADVICE:
        if mark in details.lower():
            return f": {advice}"
    if tls:  # of several addresses of a name, the library tells of the last one alone
        return f" over TLS ({_last_part(details)}). Is a server running there, and does its certificate fit?"
    return (
        f" ({_last_part(details)}). Is a server running there? "
        "Start one with: clip-search serve --bundle BUNDLE --data DIR"
    )


def _lost(server: str, details: str) -> ConnectionLostError:
    return ConnectionLostError(f"lost the connection to {server} ({details or 'no reason given'})")


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
