"""The one exception tree of the server; knows nothing of gRPC.

Every error that a caller can cause or must know about is one of these. `rpc/errors.py` is the only place that maps
them to gRPC status codes.

    ClipSearchError
    ├── InvalidArgumentError      the request is wrong (names the field)         INVALID_ARGUMENT
    ├── UnauthenticatedError      no API key, or none that is valid here         UNAUTHENTICATED
    ├── PermissionDeniedError     the API key is not for this                    PERMISSION_DENIED
    ├── NotFoundError             the id or collection does not exist            NOT_FOUND
    │   └── UnknownCollectionError                                               NOT_FOUND
    ├── AlreadyExistsError        the name is taken                              ALREADY_EXISTS
    ├── ResourceExhaustedError    a bounded queue is full; try again later       RESOURCE_EXHAUSTED
    ├── DeadlineExceededError     the caller's time ran out before the work      DEADLINE_EXCEEDED
    ├── FailedPreconditionError   right request, wrong state                     FAILED_PRECONDITION
    │   ├── SpaceMismatchError    vectors of another model                       FAILED_PRECONDITION
    │   └── AliasedCollectionError                                               FAILED_PRECONDITION
    ├── UnavailableError          starting, draining, or a refused write path    UNAVAILABLE
    ├── DataLossError             stored bytes fail their check                  DATA_LOSS
    ├── InternalError             an unforeseen failure of one input             INTERNAL
    ├── UnimplementedError        part of the API that this release lacks        UNIMPLEMENTED
    └── BundleError               a model bundle is missing, damaged or foreign  (start-up only)
"""

from collections.abc import Callable, Iterable

__all__ = [
    "AliasedCollectionError",
    "AlreadyExistsError",
    "BundleError",
    "ClipSearchError",
    "DataLossError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "SpaceMismatchError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnknownCollectionError",
]


class ClipSearchError(Exception):
    """Base of every error raised on purpose; its message is fit for users."""

    def seen_by(self, may_see: Callable[[str], bool]) -> "ClipSearchError":
        """Return this error without the names of collections that its reader may not know of."""
        del may_see
        return self


class InvalidArgumentError(ClipSearchError):
    """The request is malformed.

    Args:
        field: path of the offending field as the caller spelled it, e.g. ``parts[0].content.image``.
        description: what is wrong and what would be right.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}" if field else description)
        self.field = field
        self.description = description

    def within(self, prefix: str) -> "InvalidArgumentError":
        """Return the same error with its field path placed under `prefix`."""
        return InvalidArgumentError(f"{prefix}.{self.field}" if self.field else prefix, self.description)


class UnauthenticatedError(ClipSearchError):
    """Whoever calls is nobody the server knows.

    Args:
        message: what to send; it tells nothing of the keys that there are.
        reason: what was wrong, for the server's log.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class PermissionDeniedError(ClipSearchError):
    """Who calls is known, and may not do this; arguments as of `UnauthenticatedError`."""

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class NotFoundError(ClipSearchError):
    """The named item or collection does not exist."""


class UnknownCollectionError(NotFoundError):
    """No collection has the name; the message lists those that there are.

    Args:
        name: what was asked for.
        known: the names that there are.
    """

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self._name, self._known = name, sorted(known)
        super().__init__(f"collection: {name!r} does not exist; there is {_listing(self._known)}.")

    def seen_by(self, may_see: Callable[[str], bool]) -> ClipSearchError:
        """Return the same with the names alone that its reader may know of."""
        return UnknownCollectionError(self._name, filter(may_see, self._known))


class AlreadyExistsError(ClipSearchError):
    """The name is taken by another collection or alias."""


class ResourceExhaustedError(ClipSearchError):
    """A bounded queue is full, or as many things exist as may.

    Args:
        message: which limit was met.
        retry_after_seconds: when trying again makes sense; None where waiting alone does not help.
    """

    def __init__(self, message: str, *, retry_after_seconds: float | None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceededError(ClipSearchError):
    """The caller's deadline passed before the work was started."""


class FailedPreconditionError(ClipSearchError):
    """The request is well formed but the server's state forbids it."""


class SpaceMismatchError(FailedPreconditionError):
    """Vectors of one embedding space were offered to, or asked of, another."""


class AliasedCollectionError(FailedPreconditionError):
    """A collection cannot be deleted while aliases point at it.

    Args:
        name: the collection.
        aliases: their names.
    """

    def __init__(self, name: str, aliases: Iterable[str] = ()) -> None:
        self._name, self._aliases = name, sorted(aliases)
        listed = f": {_listing(self._aliases)}" if self._aliases else ""
        super().__init__(
            f"collection {name!r} cannot be deleted while an alias points at it{listed}; move or remove the alias first"
        )

    def seen_by(self, may_see: Callable[[str], bool]) -> ClipSearchError:
        """Return the same with the names alone that its reader may know of."""
        return AliasedCollectionError(self._name, filter(may_see, self._aliases))


class UnavailableError(ClipSearchError):
    """The server is starting, draining, or its storage has failed; nothing was changed."""


class DataLossError(ClipSearchError):
    """Stored data failed its integrity check; it is reported and never served."""


class InternalError(ClipSearchError):
    """One input failed in a way nobody foresaw; the log has the details."""


class UnimplementedError(ClipSearchError):
    """The request asks for a part of the API that this release does not serve."""


class BundleError(ClipSearchError):
    """A model bundle is missing, incomplete, damaged or of an unknown format."""


def _listing(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
