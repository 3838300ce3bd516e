"""The one exception tree of the client; knows nothing of gRPC, terminals or exit codes.

Whatever goes wrong with a call is one of these, with a message fit for users. `statuses.py` is the only place that
makes them from gRPC statuses.

    ClipSearchError
    ├── InvalidArgumentError      the request is wrong; names the fields             INVALID_ARGUMENT
    ├── NotFoundError             no such item, collection or model                  NOT_FOUND
    ├── AlreadyExistsError        the name is taken                                  ALREADY_EXISTS
    ├── FailedPreconditionError   right request, wrong state                         FAILED_PRECONDITION
    ├── ResourceExhaustedError    a bound of the server is met; try again later      RESOURCE_EXHAUSTED
    ├── DeadlineExceededError     no answer in time                                  DEADLINE_EXCEEDED
    ├── UnauthenticatedError      no API key, or one that the server does not know   UNAUTHENTICATED
    ├── PermissionDeniedError     the key does not open this                         PERMISSION_DENIED
    ├── DataLossError             stored bytes fail their check on the server        DATA_LOSS
    ├── UnimplementedError        the server is without this part of the API         UNIMPLEMENTED
    ├── UnavailableError          the server is starting or stopping                 UNAVAILABLE
    │   ├── UnreachableError      nothing answers at the address                     UNAVAILABLE
    │   └── ConnectionLostError   the connection broke during the call               UNAVAILABLE
    ├── CredentialsError          certificate, key or API key cannot be used; nothing was sent
    └── UnexpectedStatusError     any other status, or an answer that makes no sense
"""

from dataclasses import dataclass

__all__ = [
    "AlreadyExistsError",
    "ClipSearchError",
    "ConnectionLostError",
    "CredentialsError",
    "DataLossError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "FieldViolation",
    "InvalidArgumentError",
    "NotFoundError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnexpectedStatusError",
    "UnimplementedError",
    "UnreachableError",
]


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that the server refused: its path, and what is wrong with it."""

    field: str
    description: str


class ClipSearchError(Exception):
    """Base of every error the client raises on purpose.

    Attributes:
        code: the name of the gRPC status.
        request_id: under which the server's log has the call, where the server said so; else empty.
    """

    code: str = "UNKNOWN"
    request_id: str = ""


class InvalidArgumentError(ClipSearchError):
    """The server refused the request as malformed.

    Args:
        message: what is wrong.
        violations: the fields at fault, as far as the server named them.
    """

    code = "INVALID_ARGUMENT"

    def __init__(self, message: str, violations: tuple[FieldViolation, ...] = ()) -> None:
        super().__init__(message)
        self.violations = violations


class NotFoundError(ClipSearchError):
    """The named item, collection or model does not exist."""

    code = "NOT_FOUND"


class AlreadyExistsError(ClipSearchError):
    """The name is taken by another collection or alias."""

    code = "ALREADY_EXISTS"


class FailedPreconditionError(ClipSearchError):
    """The request is well formed but the server's state forbids it."""

    code = "FAILED_PRECONDITION"


class ResourceExhaustedError(ClipSearchError):
    """A bound of the server is met.

    Args:
        message: which one.
        retry_after_seconds: when trying again makes sense; None when the server did not say.
    """

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceededError(ClipSearchError):
    """No answer came in time; whether the server did the work is not known."""

    code = "DEADLINE_EXCEEDED"


class UnauthenticatedError(ClipSearchError):
    """The server wants an API key and got none, or one that it does not know."""

    code = "UNAUTHENTICATED"


class PermissionDeniedError(ClipSearchError):
    """The server knows the API key, and its role does not allow this call."""

    code = "PERMISSION_DENIED"


class DataLossError(ClipSearchError):
    """Stored data failed its integrity check on the server, which reports it and never serves it."""

    code = "DATA_LOSS"


class UnimplementedError(ClipSearchError):
    """The server does not offer this part of the API."""

    code = "UNIMPLEMENTED"


class UnavailableError(ClipSearchError):
    """The server is starting, stopping, or cannot write; nothing was changed."""

    code = "UNAVAILABLE"


class UnreachableError(UnavailableError):
    """No connection to the address could be made."""


class ConnectionLostError(UnavailableError):
    """The connection broke during the call; whether the server did the work is not known."""


class CredentialsError(ClipSearchError):
    """A certificate, its key or the API key cannot be used, or may not be sent; the server was not asked."""

    code = "CREDENTIALS"


class UnexpectedStatusError(ClipSearchError):
    """The call ended in a way that the API does not foresee.

    Args:
        message: what the server said.
        code: the name of the gRPC status.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code
