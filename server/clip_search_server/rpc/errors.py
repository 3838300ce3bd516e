"""The exception tree as gRPC statuses, in one place; knows nothing of methods and messages.

Besides code and message a status carries google.rpc details: BadRequest with the field for INVALID_ARGUMENT, RetryInfo
for RESOURCE_EXHAUSTED where waiting helps, RequestInfo for INTERNAL. With RetryInfo goes the trailer
`grpc-retry-pushback-ms` (gRPC proposal A6), which clients with a retry policy obey.
"""

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from clip_search_server.errors import (
    AlreadyExistsError,
    ClipSearchError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)

__all__ = ["internal_status", "status_of", "trailers_of"]

_TEXT_CHARS_MAX = 400

_CODES: tuple[tuple[type[ClipSearchError], int], ...] = (
    (InvalidArgumentError, code_pb2.INVALID_ARGUMENT),
    (UnauthenticatedError, code_pb2.UNAUTHENTICATED),
    (PermissionDeniedError, code_pb2.PERMISSION_DENIED),
    (NotFoundError, code_pb2.NOT_FOUND),
    (AlreadyExistsError, code_pb2.ALREADY_EXISTS),
    (ResourceExhaustedError, code_pb2.RESOURCE_EXHAUSTED),
    (DeadlineExceededError, code_pb2.DEADLINE_EXCEEDED),
    (FailedPreconditionError, code_pb2.FAILED_PRECONDITION),
    (UnavailableError, code_pb2.UNAVAILABLE),
    (DataLossError, code_pb2.DATA_LOSS),
    (InternalError, code_pb2.INTERNAL),
    (UnimplementedError, code_pb2.UNIMPLEMENTED),
)


def status_of(error: ClipSearchError) -> status_pb2.Status:
    """Return the status that tells a client of `error`."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), code_pb2.INTERNAL)
    details = [_packed(detail) for detail in _details(error)]
    return status_pb2.Status(code=code, message=_cut(str(error)), details=details)


def internal_status(request_id: str) -> status_pb2.Status:
    """Return the status for an error that nobody foresaw: no inner workings, but an id to find it in the log by."""
    return status_pb2.Status(
        code=code_pb2.INTERNAL,
        message=f"Internal error; the server's log has it under request {request_id}.",
        details=[_packed(error_details_pb2.RequestInfo(request_id=request_id))],
    )


def trailers_of(error: ClipSearchError) -> tuple[tuple[str, str], ...]:
    """Return the trailing metadata that goes with `error`: when to call again, or -1 where that would not help."""
    if isinstance(error, ResourceExhaustedError):
        after = error.retry_after_seconds
        return (("grpc-retry-pushback-ms", "-1" if after is None else str(int(after * 1000))),)
    return ()


def _details(error: ClipSearchError) -> list[Message]:
    if isinstance(error, InvalidArgumentError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(error.field), description=_cut(error.description)
        )
        return [error_details_pb2.BadRequest(field_violations=[violation])]
    if isinstance(error, ResourceExhaustedError) and error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        return [error_details_pb2.RetryInfo(retry_delay=delay)]
    return []


def _cut(text: str) -> str:
    """Return `text` short enough for a header: it may quote what callers sent, and too large headers end a call."""
    return text if len(text) <= _TEXT_CHARS_MAX else f"{text[:_TEXT_CHARS_MAX]}…"


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
