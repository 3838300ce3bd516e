"""What went wrong, as JSON with the fitting HTTP status: the client's exceptions and the gateway's own.

    {"error": {"code": "UNAVAILABLE", "message": "…", …}}

`code` is the name of the gRPC status, or one of the gateway's: FILTER (with `text`, `position` and `description`),
QUERY, UPLOAD, UPLOAD_GONE, NO_PICTURE, REFUSED. The page tells people what to do by it.
"""

import math
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from clip_search.errors import ClipSearchError, InvalidArgumentError, ResourceExhaustedError, UnreachableError
from clip_search.filter_text import FilterSyntaxError

__all__ = ["GatewayError", "answer_client_error", "answer_filter_error", "answer_http_error", "problem_response"]

_STATUSES = {
    "ALREADY_EXISTS": 409,
    "DATA_LOSS": 500,
    "DEADLINE_EXCEEDED": 504,
    "FAILED_PRECONDITION": 409,
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "PERMISSION_DENIED": 502,
    "RESOURCE_EXHAUSTED": 429,
    "UNAUTHENTICATED": 502,
    "UNAVAILABLE": 503,
    "UNIMPLEMENTED": 501,
}
_OTHER_STATUS = 502


class GatewayError(HTTPException):
    """Something that the gateway itself refuses or lacks.

    Args:
        status: the HTTP status.
        code: one of the module's codes.
        message: one sentence that says what to do.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, message)
        self.code = code


def problem_response(status: int, code: str, message: str, **facts: Any) -> Response:  # noqa: ANN401  # any JSON value
    """Give the answer that tells a problem; it is never kept by browsers."""
    error = {"code": code, "message": message, **{name: fact for name, fact in facts.items() if fact is not None}}
    return JSONResponse({"error": error}, status, {"Cache-Control": "no-store"})


def answer_client_error(_request: Request, error: Exception) -> Response:
    """Tell what the client raised."""
    if not isinstance(error, ClipSearchError):
        raise TypeError(f"{error!r} is not the client's. This is a bug.")
    status = _STATUSES.get(error.code, _OTHER_STATUS)
    message = str(error)
    if isinstance(error, InvalidArgumentError):
        added = [f"{each.field}: {each.description}" for each in error.violations if each.description not in message]
        message = "; ".join([message, *added])
    retry = error.retry_after_seconds if isinstance(error, ResourceExhaustedError) else None
    unreachable = isinstance(error, UnreachableError) or None
    response = problem_response(status, error.code, message, retry_after_seconds=retry, unreachable=unreachable)
    if retry is not None:
        response.headers["Retry-After"] = str(math.ceil(retry))
    return response


def answer_filter_error(_request: Request, error: Exception) -> Response:
    """Tell where a filter is wrong."""
    if not isinstance(error, FilterSyntaxError):
        raise TypeError(f"{error!r} is not of a filter. This is a bug.")
    place = {"text": error.text, "position": error.position, "description": error.description}
    return problem_response(400, "FILTER", error.description, **place)


def answer_http_error(_request: Request, error: Exception) -> Response:
    """Tell what the gateway, or the library below it, refused."""
    if not isinstance(error, HTTPException):
        raise TypeError(f"{error!r} has no status. This is a bug.")
    code = error.code if isinstance(error, GatewayError) else "HTTP"
    return problem_response(error.status_code, code, error.detail)
