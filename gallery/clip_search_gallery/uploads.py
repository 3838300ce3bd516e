"""Pictures that browsers sent to search by: kept in memory, a few, until newer ones take their room.

They are known by a digest of their bytes, which can stand in an address. Knows nothing of what they show.
"""

import hashlib
from collections import OrderedDict

__all__ = ["Uploads"]

_KEY_BYTES = 16


class Uploads:
    """The pictures, the last used ones.

    Args:
        pictures_max: how many are kept.
        bytes_max: how many bytes they may have together; one alone may be larger.
    """

    def __init__(self, pictures_max: int = 32, bytes_max: int = 128 * 1024 * 1024) -> None:
        self._pictures_max = pictures_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._pictures: OrderedDict[str, bytes] = OrderedDict()

    def add(self, picture: bytes) -> str:
        """Keep a picture and give its key, which is the same for the same bytes."""
        key = hashlib.blake2b(picture, digest_size=_KEY_BYTES).hexdigest()
        if key not in self._pictures:
            self._pictures[key] = picture
            self._bytes += len(picture)
        self._pictures.move_to_end(key)
        while len(self._pictures) > self._pictures_max or (self._bytes > self._bytes_max and len(self._pictures) > 1):
            _, dropped = self._pictures.popitem(last=False)
            self._bytes -= len(dropped)
        return key

    def get(self, key: str) -> bytes | None:
        """Give the picture of a key, None where it is no longer kept or never was."""
        picture = self._pictures.get(key)
        if picture is not None:
            self._pictures.move_to_end(key)
        return picture
