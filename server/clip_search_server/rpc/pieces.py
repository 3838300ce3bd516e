"""Converts long lists a piece at a time, so that other calls get their turn in between; knows no messages."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["in_pieces"]

Value = TypeVar("Value")
Message = TypeVar("Message")

_PIECE = 64
"""Items with vectors take about 30 µs each: a piece holds up the event loop for some two milliseconds."""


async def in_pieces(convert: Callable[[Value], Message], values: Iterable[Value]) -> list[Message]:
    """Return each value converted, in order."""
    messages: list[Message] = []
    for value in values:
        messages.append(convert(value))
        if len(messages) % _PIECE == 0:
            await asyncio.sleep(0)
    return messages
