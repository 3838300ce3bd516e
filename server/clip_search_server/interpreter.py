"""How the Python interpreter is set up in a process that serves; knows nothing of what it serves."""

import sys

__all__ = ["prefer_latency"]

# A thread that wants the interpreter's lock waits this long before it asks for it. While a segment's rows are gathered
# or a large batch is checked, every step of a search waits so long, and a search has dozens of steps.
_SWITCH_SECONDS = 0.0005


def prefer_latency() -> None:
    """Have threads take turns ten times as often as Python does by itself; for the whole process."""
    sys.setswitchinterval(_SWITCH_SECONDS)
