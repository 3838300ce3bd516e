"""Silences libtiff, which writes what it thinks of a picture to stderr, row by row; knows nothing of pictures.

A small file of ten thousand damaged rows would add half a megabyte to a server's log. What is wrong with a picture is
told to its sender. Pillow has no word for this, so the library that it has loaded is asked itself; where it cannot be
found, as where it is part of Pillow's own binary, it goes on talking.
"""

import ctypes
from pathlib import Path

__all__ = ["silence_libtiff"]

_MAPPINGS = Path("/proc/self/maps")


def silence_libtiff() -> bool:
    """Take libtiff's handlers of errors and warnings away, for the whole process; return whether that was possible."""
    try:
        paths = {line.split(maxsplit=5)[-1] for line in _MAPPINGS.read_text().splitlines() if "/libtiff" in line}
        for path in paths:
            library = ctypes.CDLL(path)
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)
    except (OSError, AttributeError):
        return False
    return bool(paths)
