"""Coroutines side by side; knows nothing of what they do."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import TypeVar

__all__ = ["run_together"]

R = TypeVar("R")


async def run_together(coroutines: Iterable[Coroutine[None, None, R]]) -> list[R]:
    """Return what each returned, in order; when one raises, cancel the others and raise its error."""
    waiting = list(coroutines)
    if len(waiting) == 1:  # Most requests: no task is needed.
        return [await waiting[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in waiting]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
