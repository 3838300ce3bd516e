"""A process that dies at a chosen step, without a process: calls to the operating system raise instead."""

import os
from collections.abc import Callable

import pytest


class CrashError(BaseException):
    """The process dies here: what catches errors must not catch it, and what cleans up may not be relied upon."""


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Raise CrashError before or after a call that changes the names or syncs of files: each has two steps, from 1."""
    count = 0

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                raise CrashError
            result = real(*args, **kwargs)
            count += 1
            if count == step:
                raise CrashError
            return result

        return call

    for module, name in ((os, "rename"), (os, "fsync"), (os, "rmdir"), (os, "mkdir"), (os, "unlink")):
        monkeypatch.setattr(module, name, dying(getattr(module, name)))
