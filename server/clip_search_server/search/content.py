"""What a query part or an item is made of, and how it becomes a vector; knows nothing of protobuf."""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from clip_search_server.encoder.batching import Urgency
from clip_search_server.encoder.encoder import EmbeddedPicture, Encoder, Vector
from clip_search_server.errors import ClipSearchError, InternalError, InvalidArgumentError, NotFoundError
from clip_search_server.search.collection import AsyncCollection

__all__ = [
    "Content",
    "ImageContent",
    "ItemContent",
    "TextContent",
    "VectorContent",
    "content_digest",
    "embed_content",
    "embed_item",
]

_HASHED_ON_LOOP_BYTES_MAX = 2**17
"""Hashing this much takes about a tenth of a millisecond, as going to a thread and back does."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TextContent:
    """Words."""

    text: str


@dataclass(frozen=True, slots=True)
class ImageContent:
    """An encoded picture, such as the bytes of a JPEG file."""

    data: bytes


@dataclass(frozen=True, slots=True, eq=False)
class VectorContent:
    """A vector of the model's space; only its direction counts."""

    vector: Vector  # (dim,)


@dataclass(frozen=True, slots=True)
class ItemContent:
    """The vector of an item that is stored already."""

    item_id: str


Content = TextContent | ImageContent | VectorContent | ItemContent


async def content_digest(content: Content) -> bytes:
    """Return the SHA-256 that tells whether two items' contents are the same, ``b""`` for vectors and item ids.

    Those cost nothing to embed, so that nobody asks whether they are there already.
    """
    match content:
        case TextContent(text):
            return hashlib.sha256(b"text\0" + text.encode()).digest()
        case ImageContent(data) if len(data) <= _HASHED_ON_LOOP_BYTES_MAX:
            return _image_digest(data)
        case ImageContent(data):
            return await asyncio.to_thread(_image_digest, data)
        case _:
            return b""


def _image_digest(data: bytes) -> bytes:
    digest = hashlib.sha256(b"image\0")
    digest.update(data)
    return digest.digest()


async def embed_content(
    content: Content, encoder: Encoder, collection: AsyncCollection | None, urgency: Urgency, *, field: str
) -> Vector:
    """Return the unit vector (dim,) of `content`.

    Args:
        content: what to embed.
        encoder: the model.
        collection: where an item id is looked up; None where ids are not accepted.
        urgency: when the answer is wanted.
        field: path of the content in the request, for messages.

    Raises:
        InvalidArgumentError: naming the content's kind below `field`: `text`, `image`, `vector` or `item_id`.
        NotFoundError: no item has the id.
        ResourceExhaustedError, DeadlineExceededError, UnavailableError: see `Door.admitted`.
        InternalError: the model failed on this input.
    """
    with _errors_named(content, field):
        return await _embed(content, encoder, collection, urgency)


async def embed_item(
    content: Content, collection: AsyncCollection, encoder: Encoder, urgency: Urgency, *, field: str, thumbnail: bool
) -> tuple[EmbeddedPicture, bytes]:
    """Return the vector and the thumbnail of an item's content, and its digest; see `content_digest`.

    A text or an image that the collection holds already, or that is being embedded for it, is not embedded again. The
    thumbnail is None where none is wanted, none can be made, or the server makes none.

    Raises:
        ClipSearchError: as of `embed_content`; an item id is no content of an item.
    """
    with _errors_named(content, field):
        digest = await content_digest(content)

        async def embed() -> EmbeddedPicture:
            if isinstance(content, ImageContent):
                return await encoder.embed_picture(content.data, urgency, thumbnail=thumbnail)
            return EmbeddedPicture(await _embed(content, encoder, None, urgency), None)

        made = await collection.repeats.embed_once(digest, embed) if digest else await embed()
        if thumbnail and made.thumbnail is None and isinstance(content, ImageContent):
            made = EmbeddedPicture(made.vector, await encoder.make_thumbnail(content.data, urgency))
        return made, digest


@contextlib.contextmanager
def _errors_named(content: Content, field: str) -> Iterator[None]:
    """Let the errors of embedding `content` name `field`, and be errors of the API."""
    try:
        yield
    except InvalidArgumentError as error:
        raise error.within(field) from error
    except NotFoundError as error:
        raise NotFoundError(f"{field}.{error}") from error
    except ClipSearchError:
        raise
    except Exception as error:
        _LOG.exception("%s could not be embedded", type(content).__name__)
        raise InternalError("The input could not be embedded; the server's log says why.") from error


async def _embed(content: Content, encoder: Encoder, collection: AsyncCollection | None, urgency: Urgency) -> Vector:
    match content:
        case TextContent(text):
            if not text:
                raise InvalidArgumentError("text", "is empty.")
            return await encoder.embed_text(text, urgency)
        case ImageContent(data):
            return await encoder.embed_image(data, urgency)
        case VectorContent(vector):
            return _unit_vector(vector, encoder.dim)
        case ItemContent(item_id):
            if collection is None:
                raise InvalidArgumentError("item_id", "is not accepted here; send a text, an image or a vector.")
            try:
                (item,) = await collection.get([item_id])
            except InvalidArgumentError as error:
                raise InvalidArgumentError("item_id", error.description) from error
            if item is None:
                raise NotFoundError(f"item_id: no item has the id {item_id!r}.")
            return item.vector


def _unit_vector(vector: Vector, dim: int) -> Vector:
    if vector.shape != (dim,):
        raise InvalidArgumentError("vector", f"has {vector.size} values; the model's space has {dim}.")
    if not np.isfinite(vector).all():
        raise InvalidArgumentError("vector", "holds a value that is not finite.")
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if length == 0:
        raise InvalidArgumentError("vector", "is zero, so it has no direction.")
    return (vector.astype(np.float64) / length).astype(np.float32)
