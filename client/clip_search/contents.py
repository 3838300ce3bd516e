"""What callers send: contents, query parts and items. Plain values that know nothing of messages or servers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["AttributeValue", "Content", "Image", "Item", "ItemId", "Part", "Text", "Vector"]

# A sequence is a list of texts. Instants without a time zone are taken as UTC.
AttributeValue: TypeAlias = str | bool | int | float | datetime | Sequence[str]


@dataclass(frozen=True, slots=True)
class Text:
    """Words that the server embeds."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded picture (JPEG, PNG, WebP, GIF, BMP or TIFF) that the server embeds."""

    data: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """A point of the model's space, of any length but zero."""

    values: NDArray[np.float32]  # (dim,)


@dataclass(frozen=True, slots=True)
class ItemId:
    """The stored vector of the item with this id. Not allowed as the content of an item or as an input of `embed`."""

    id: str


Content: TypeAlias = Text | Image | Vector | ItemId


@dataclass(frozen=True, slots=True)
class Part:
    """One ingredient of a query; a negative weight steers away from it."""

    content: Content
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to store.

    Args:
        id: unique in its collection, chosen by the caller.
        content: what the item is found by; None keeps the vector already stored under the id.
        attributes: facts to show and to filter by, by name.
        text: words that belong to the item; they do not take part in the vector.
        thumbnail: a small encoded picture (PNG, JPEG or WebP) that the server gives back byte for byte; may be empty.
    """

    id: str
    content: Content | None
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    text: str = ""
    thumbnail: bytes = b""
