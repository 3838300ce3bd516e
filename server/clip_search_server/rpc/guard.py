"""Lets calls in by their API key, or refuses them; knows nothing of how keys are kept and of what methods do.

A call is admitted by its metadata and the method's name, before its message is read. What its message names is checked
once that is parsed and before anything is looked up, so a refusal is the same whether or not the name exists.

Health is open to all: probes of orchestrators carry no key, and it tells nothing but that the server is there. gRPC's
other services, reflection above all, take any valid key.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from clip_search_server.access.key_ring import ANYONE, Caller, KeyRing
from clip_search_server.access.keys import Role
from clip_search_server.errors import ClipSearchError, PermissionDeniedError, UnauthenticatedError
from clip_search_server.rpc.permissions import PERMISSIONS, Permission

__all__ = ["Access", "Guard", "KeyWatch"]

_LOG = logging.getLogger(__name__)

_HEALTH = "/grpc.health.v1.Health/"
_OTHER_OF_GRPC = "/grpc."
_AUTHORIZATION = "authorization"
_SCHEME = "bearer "
_REFUSALS_LOGGED_MAX = 10
_REFUSALS_WINDOW_SECONDS = 10.0

_Metadata = Sequence[tuple[str, str | bytes]]


class Guard:
    """Decides who may call.

    Args:
        ring: the keys that are valid; None lets everybody do everything.
        clock: tells seconds.
    """

    def __init__(self, ring: KeyRing | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._ring = ring
        self._refusals = _RefusalLog(clock)

    def admit(self, method: str, metadata: _Metadata) -> "Access":
        """Return what the caller of `method` has access to.

        Raises:
            UnauthenticatedError: no valid key came with the call.
            PermissionDeniedError: the key's role does not reach.
        """
        if self._ring is None or method.startswith(_HEALTH):
            return _ALL
        caller = self._ring.find(_key_in(metadata))
        if method.startswith(_OTHER_OF_GRPC):
            return _ALL
        permission = PERMISSIONS.get(method)
        if permission is None:
            _LOG.error("%s is in no table of permissions, so nobody may call it. This is a bug.", method)
            raise PermissionDeniedError("Nobody may call this method.", reason="a method without permissions")
        if caller.role < permission.role:
            needed, has = permission.role.name.lower(), caller.role.name.lower()
            raise PermissionDeniedError(
                f"This method needs an API key of the role {needed}; this one's is {has}.",
                reason=f"the API key {caller.name!r}, whose role is {has}",
            )
        return Access(caller, permission)

    def note(self, peer: str, method: str, error: ClipSearchError) -> None:
        """Log a refusal, where `error` is one; never the key."""
        if isinstance(error, UnauthenticatedError | PermissionDeniedError):
            self._refusals.note(f"refused {peer} at {method}: {error.reason}")


class Access:
    """What one call may read, change and see."""

    def __init__(self, caller: Caller, permission: Permission) -> None:
        self._caller, self._permission = caller, permission

    def check(self, request: Any) -> None:  # noqa: ANN401 - any request
        """Refuse a request that names a collection or alias that the key is not for.

        Raises:
            PermissionDeniedError: it does.
        """
        if self._caller.collections is None:
            return
        if not all(map(self._caller.may_use, self._permission.names(request))):
            raise PermissionDeniedError(
                "This API key is not for the collection that the request names; whether that exists is not told.",
                reason=f"the API key {self._caller.name!r}, which is not for the collection",
            )

    async def checked(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yield the messages of a stream, the first one checked."""
        is_first = True
        async for request in requests:
            if is_first:
                self.check(request)
                is_first = False
            yield request

    def shown(self, response: Any) -> Any:  # noqa: ANN401 - any response
        """Return what of a response the caller may see."""
        return self._permission.shown(response, self._caller)

    def told(self, error: ClipSearchError) -> ClipSearchError:
        """Return what of an error the caller may know."""
        return error if self._caller.collections is None else error.seen_by(self._caller.may_use)

    @contextlib.contextmanager
    def while_valid(self) -> Iterator["KeyWatch"]:
        """Break off what is inside, a stream in the current task, once the key is valid no longer.

        Raises:
            UnauthenticatedError: that happened.
        """
        watch = KeyWatch(self._caller)
        following = asyncio.ensure_future(watch.follow()) if self._caller is not ANYONE else None
        try:
            watch.check()
            yield watch
        except asyncio.CancelledError:
            watch.check_broken_off()
            raise
        finally:
            if following is not None:
                following.cancel()


class KeyWatch:
    """Ends a stream with its key: at once while it waits, and else at its next step.

    While the stream's answer is being sent, its task is gRPC's own, which must not be cancelled: the call would end
    without a status.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller, self._task = caller, asyncio.current_task()
        self._is_sending, self._was_cancelled = False, False

    async def follow(self) -> None:
        """Wait for the key's end and cancel the stream's task where that may be done."""
        await self._caller.ended.wait()
        if self._task is not None and not self._is_sending:
            self._was_cancelled = True
            self._task.cancel()

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Leave the task alone while an answer is sent; what ended meanwhile is told after it."""
        self._is_sending = True
        yield
        self._is_sending = False
        self.check()

    def check(self) -> None:
        """Raise UnauthenticatedError where the key is valid no longer."""
        if self._caller.ended.is_set():
            raise UnauthenticatedError(
                "The API key has been revoked or has expired; what was answered is done.",
                reason=f"the API key {self._caller.name!r}, which ended during the stream",
            )

    def check_broken_off(self) -> None:
        """Raise UnauthenticatedError where it was this that cancelled the task."""
        if self._was_cancelled and self._task is not None:
            self._task.uncancel()
            self.check()


_ALL = Access(ANYONE, Permission(Role.READ))


def _key_in(metadata: _Metadata) -> str:
    sent = [value for name, value in metadata if name == _AUTHORIZATION]
    if len(sent) != 1:
        raise _keyless("no API key" if not sent else "several authorizations")
    value = sent[0]
    if not isinstance(value, str) or not value.lower().startswith(_SCHEME):
        raise _keyless("an authorization that is no Bearer key")
    return value[len(_SCHEME) :].strip()


def _keyless(reason: str) -> UnauthenticatedError:
    message = "This server takes calls with an API key: send it as the metadata `authorization: Bearer KEY`."
    return UnauthenticatedError(message, reason=reason)


class _RefusalLog:
    """Logs the first refusals of each ten seconds, and how many more there were: strangers must not fill the disk."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._window_end, self._logged, self._unlogged = 0.0, 0, 0

    def note(self, line: str) -> None:
        now = self._clock()
        if now >= self._window_end:
            if self._unlogged:
                _LOG.warning("%d more calls were refused", self._unlogged)
            self._window_end, self._logged, self._unlogged = now + _REFUSALS_WINDOW_SECONDS, 0, 0
        if self._logged < _REFUSALS_LOGGED_MAX:
            self._logged += 1
            _LOG.warning("%s", line)
        else:
            self._unlogged += 1
