"""Rows of the store and their checksums; knows nothing of SQLite.

Every row carries a CRC-32 of its own fields *and* of its label, so that a flipped bit, a row read from the wrong place
and a mix-up of two rows all show. Fields are framed by their length, integers are 8 bytes little-endian signed.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import cast

import numpy as np

from clip_search_server.errors import DataLossError
from clip_search_server.index.attributes import decode_attributes
from clip_search_server.index.types import FloatArray, StoredItem

ITEM_COLUMNS = "label, id, sequence, attributes, text, content_digest, crc"

COUNTERS = "SELECT sequence, next_label, crc FROM counters"

_INTEGER = struct.Struct("<q")


def crc_of(*fields: bytes | int) -> int:
    """Return the CRC-32 of the framed fields."""
    crc = 0
    for field in fields:
        if isinstance(field, int):
            crc = zlib.crc32(_INTEGER.pack(field), crc)
        else:
            crc = zlib.crc32(field, zlib.crc32(_INTEGER.pack(len(field)), crc))
    return crc


@dataclass(frozen=True, slots=True)
class ItemRow:
    """A row of `items`: everything of an item except its vector and thumbnail."""

    label: int
    id: bytes
    sequence: int
    attributes: bytes
    text: bytes
    content_digest: bytes

    def crc(self) -> int:
        """Return the checksum to store beside these fields."""
        return crc_of(self.label, self.id, self.sequence, self.attributes, self.text, self.content_digest)

    def checked(self, crc: int) -> "ItemRow":
        """Return the row itself, or raise DataLossError where it does not match its stored checksum."""
        if crc != self.crc():
            raise DataLossError(
                f"item {self.id!r} (label {self.label}): its row fails its checksum; write the item again"
            )
        return self

    def joined_with(self, vector: FloatArray, *, has_thumbnail: bool) -> StoredItem:
        """Return the item as callers see it."""
        return StoredItem(
            id=self.id.decode(),
            sequence=self.sequence,
            vector=vector,
            attributes=decode_attributes(self.attributes),
            text=self.text.decode(),
            content_digest=self.content_digest,
            has_thumbnail=has_thumbnail,
        )


def counters_from(columns: object) -> tuple[int, int]:
    """Return the sequence and the next label that `COUNTERS` selected.

    Raises:
        DataLossError: the row is missing or fails its checksum.
    """
    sequence, next_label, crc = cast("tuple[int, int, int]", columns or (0, 0, -1))
    if crc != crc_of(sequence, next_label):
        raise DataLossError("the store's counters fail their checksum; restore the store from a backup")
    return sequence, next_label


def item_from(columns: tuple[object, ...]) -> ItemRow:
    """Return a row of `items`, read in the order of `ITEM_COLUMNS`, or raise DataLossError as `checked` does."""
    values = cast("tuple[int, bytes, int, bytes, bytes, bytes, int]", columns)
    return ItemRow(*values[:-1]).checked(values[-1])


def vector_from(label: int, blob: bytes, crc: int, dim: int) -> FloatArray:
    """Return the vector of a row of `vectors`, float32 (dim,).

    Raises:
        DataLossError: the bytes fail their checksum or have another length.
    """
    if crc != crc_of(label, blob) or len(blob) != 4 * dim:
        raise DataLossError(f"label {label}: its stored vector fails its checksum; write the item again")
    return np.frombuffer(blob, dtype="<f4").astype(np.float32)


def thumbnail_from(label: int, blob: bytes, crc: int) -> bytes:
    """Return the thumbnail of a row of `thumbnails`.

    Raises:
        DataLossError: the bytes fail their checksum.
    """
    if crc != crc_of(label, blob):
        raise DataLossError(f"label {label}: its stored thumbnail fails its checksum; write the item again")
    return blob
