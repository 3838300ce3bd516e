"""Sizes for people, and whether a disk is full; knows nothing of what is written to it."""

import errno

__all__ = ["is_disk_full", "megabytes"]

_MEGABYTE = 1_000_000


def is_disk_full(error: BaseException) -> bool:
    """Tell whether a write failed for want of room."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def megabytes(size_bytes: int) -> str:
    """Write a size for people."""
    return f"{size_bytes / _MEGABYTE:,.1f} MB"
