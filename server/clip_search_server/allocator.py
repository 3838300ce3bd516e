"""How C's memory allocator is set up in a process that serves; knows nothing of what it serves."""

import ctypes
import os

__all__ = ["give_back_large_blocks"]

# glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 1 << 20
_TRIM_BYTES = 8 << 20


def give_back_large_blocks() -> None:
    """Have blocks of a mebibyte and more go back to the kernel when they are freed; for the whole process.

    By itself glibc learns from the first large blocks that are freed to keep such blocks, up to 32 MiB each, in every
    thread's arena, where small ones that live long settle between them: a server that builds segments and decodes
    pictures on many threads then holds several times what it uses. Nothing is done where the operator has set
    `MALLOC_MMAP_THRESHOLD_`, or where the C library is another.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
    mallopt(_TRIM_THRESHOLD, _TRIM_BYTES)
