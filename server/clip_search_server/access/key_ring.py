"""The API keys that are valid at this moment; knows nothing of calls and of what keys may do.

The file is looked at several times a second. A key that was taken out or changed, or that has expired, is valid no
longer, and what goes on under it is told: its holder's `ended` is set. A file that cannot be read, or is wrong, leaves
everything as it was, because an operator's slip must lock nobody out; the log says so once.
"""

import asyncio
import datetime as dt
import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clip_search_server.access.files import LOOK_INTERVAL_SECONDS, WatchedFiles, who_else_may
from clip_search_server.access.keys import KEY_CHARS_MAX, KeyEntry, Role, digest_of, read_keys
from clip_search_server.errors import FailedPreconditionError, UnauthenticatedError

__all__ = ["ANYONE", "Caller", "KeyRing"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """Whoever holds a key; `ended` is set once the key is valid no longer."""

    name: str
    role: Role
    collections: frozenset[str] | None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def may_use(self, collection: str) -> bool:
        """Tell whether the key is for a collection or alias of this name."""
        return self.collections is None or collection in self.collections


#: Who calls a server that asks for no keys.
ANYONE = Caller("", Role.ADMIN, None)


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class KeyRing:
    """Recognises keys.

    Args:
        path: the file of keys.
        now: tells the time, with its zone.

    Raises:
        FailedPreconditionError: the file is missing or wrong, or holds no key.
    """

    def __init__(self, path: Path, now: Callable[[], dt.datetime] = _utc_now) -> None:
        self._path, self._now = path, now
        self._watched = WatchedFiles([path])
        self._callers: dict[KeyEntry, Caller] = {}
        entries = read_keys(path)
        if not entries:
            raise FailedPreconditionError(
                f"--api-keys {path}: holds no key, so nobody could call; append what clip-search key new prints."
            )
        self._take(entries)
        warning = who_else_may(path, read=False)
        if warning:
            _LOG.warning("--api-keys %s", warning)

    def find(self, key: str) -> Caller:
        """Return who holds `key`.

        Every digest is compared in full, in constant time.

        Raises:
            UnauthenticatedError: nobody does, or it has expired; the message is the same.
        """
        digest = digest_of(key) if len(key) <= KEY_CHARS_MAX else b""
        found: KeyEntry | None = None
        for entry in self._callers:
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        if found is None:
            raise _invalid("an API key that is none of this server's")
        if self._has_expired(found):
            raise _invalid(f"the API key {found.name!r}, which has expired")
        return self._callers[found]

    async def watch(self) -> None:
        """Follow the file and the clock until cancelled."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_SECONDS)
            if await asyncio.to_thread(self._watched.have_changed):
                await self._reload()
            for entry, caller in self._callers.items():
                if self._has_expired(entry) and not caller.ended.is_set():
                    _LOG.info("the API key %s has expired", entry.name)
                    caller.ended.set()

    async def _reload(self) -> None:
        try:
            entries = await asyncio.to_thread(read_keys, self._path)
        except FailedPreconditionError as error:
            _LOG.error("%s The keys that were valid before stay valid.", error)
            return
        self._take(entries)
        if not entries:
            _LOG.warning("--api-keys %s: holds no key any more; nobody can call", self._path)

    def _take(self, entries: list[KeyEntry]) -> None:
        """Make `entries` the valid keys; those that are the same keep their callers."""
        before, self._callers = self._callers, {}
        for entry in entries:
            kept = before.pop(entry, None)
            self._callers[entry] = kept or Caller(entry.name, entry.role, entry.collections)
        for gone in before.values():
            gone.ended.set()
        if before:
            _LOG.info("API keys that were revoked or changed: %s", ", ".join(entry.name for entry in before))
        _LOG.info("%d API keys are valid", sum(not self._has_expired(entry) for entry in self._callers))

    def _has_expired(self, entry: KeyEntry) -> bool:
        return entry.expires is not None and entry.expires <= self._now()


def _invalid(reason: str) -> UnauthenticatedError:
    return UnauthenticatedError("The API key is not valid here: it is unknown, expired or revoked.", reason=reason)
