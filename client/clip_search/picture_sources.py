"""Where the picture of a stored item can be read again: a file, an address on the web, or the server itself.

A source gives the bytes of one item's picture, or says in a sentence why it cannot. It knows nothing of what the bytes
are wanted for, and looks into no picture. Every reading is bounded in bytes and, from the web, in time. From the web
only http and https are read: neither an attribute nor a redirection leads to a file of this machine.
"""

import stat
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import urlsplit

import clip_search
from clip_search.client import Client
from clip_search.errors import DataLossError, FailedPreconditionError, NotFoundError
from clip_search.results import StoredItem

__all__ = ["AttributeSource", "PathSource", "PictureSource", "ServerSource", "SourceError", "UrlSource", "read_first"]

_CHUNK_BYTES = 1 << 20
_REDIRECTIONS_MAX = 5
_SCHEMES = ("http", "https")


class SourceError(Exception):
    """The picture of an item cannot be read; the message says why."""


class PictureSource(Protocol):
    """Reads pictures again; from any number of threads."""

    def read(self, item: StoredItem) -> bytes:
        """Return the bytes of an item's picture.

        Raises:
            SourceError: it cannot be read.
            ClipSearchError: the server does not answer, whichever item is asked for.
        """


def read_first(sources: Sequence[PictureSource], item: StoredItem) -> bytes:
    """Return what the first of several sources gives that can read the picture.

    Raises:
        SourceError: none can; the message says of each why.
    """
    reasons = []
    for source in sources:
        try:
            return source.read(item)
        except SourceError as error:
            reasons.append(str(error))
    raise SourceError("; ".join(reasons))


class AttributeSource:
    """What sources have in common that an attribute of the item leads to.

    Args:
        attribute: its name.
        bytes_max: larger pictures are refused.
    """

    def __init__(self, attribute: str, bytes_max: int) -> None:
        self._attribute = attribute
        self._bytes_max = bytes_max

    def _value(self, item: StoredItem) -> str:
        value = item.attributes.get(self._attribute)
        if value is None:
            raise SourceError(f"it has no attribute {self._attribute}")
        if not isinstance(value, str) or not value:
            raise SourceError(f"its attribute {self._attribute} is no text that could lead anywhere")
        return value

    def _read(self, stream: IO[bytes] | HTTPResponse, place: str, deadline: float | None = None) -> bytes:
        """Read to the end, within the bounds."""
        pieces: list[bytes] = []
        size = 0
        while piece := stream.read1(_CHUNK_BYTES) if isinstance(stream, HTTPResponse) else stream.read(_CHUNK_BYTES):
            pieces.append(piece)
            size += len(piece)
            if size > self._bytes_max:
                raise SourceError(f"{place} has more than the {self._bytes_max:,} bytes that the server takes")
            if deadline is not None and time.monotonic() > deadline:
                raise SourceError(f"{place} did not come in time")
        if not pieces:
            raise SourceError(f"{place} is empty")
        return b"".join(pieces)


class PathSource(AttributeSource):
    """Files of this machine, by the path in an attribute."""

    def read(self, item: StoredItem) -> bytes:
        """Return the file's bytes."""
        path = self._value(item)
        try:
            if not stat.S_ISREG(Path(path).stat().st_mode):  # opening a pipe would wait for ever
                raise SourceError(f"{path} is no regular file")
            with Path(path).open("rb") as stream:
                return self._read(stream, path)
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror or error}") from error
        except ValueError as error:  # a null character
            raise SourceError(f"{path!r} is no path") from error


class UrlSource(AttributeSource):
    """Pictures on the web, by the address in an attribute.

    Args:
        attribute: its name.
        bytes_max: larger pictures are refused.
        timeout_seconds: how long one picture may take, redirections included.
    """

    def __init__(self, attribute: str, bytes_max: int, *, timeout_seconds: float) -> None:
        super().__init__(attribute, bytes_max)
        self._timeout_seconds = timeout_seconds
        self._opener = _opener()

    def read(self, item: StoredItem) -> bytes:
        """Return what the address gives."""
        url = self._value(item)
        deadline = time.monotonic() + self._timeout_seconds
        try:
            scheme = urlsplit(url).scheme
        except ValueError as error:
            raise SourceError(f"{url} is no address ({error})") from error
        if scheme not in _SCHEMES:
            raise SourceError(f"{url}: only http and https are read")
        try:
            # The scheme was checked above, and of those to come by _Redirections.
            request = urllib.request.Request(url, headers={"User-Agent": f"clip-search/{clip_search.__version__}"})  # noqa: S310
            with self._opener.open(request, timeout=self._timeout_seconds) as response:
                return self._read(response, url, deadline)
        except urllib.error.HTTPError as error:
            with error:
                raise SourceError(f"{url} answers {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise SourceError(f"{url}: {error.reason}") from error
        except TimeoutError as error:
            raise SourceError(f"{url} did not come in time") from error
        except (OSError, HTTPException, ValueError) as error:
            raise SourceError(f"{url}: {str(error) or type(error).__name__}") from error


class ServerSource:
    """Pictures that the server keeps; see `clip-search serve --keep-images`.

    Args:
        client: of the collection that the items are in.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def read(self, item: StoredItem) -> bytes:
        """Return the picture as it was sent."""
        try:
            return self._client.image(item.id)
        except NotFoundError as error:
            raise SourceError("the server keeps no picture of it") from error
        except (DataLossError, FailedPreconditionError) as error:
            raise SourceError(f"the server cannot read its picture: {error}") from error


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Follows a few redirections, within http and https."""

    max_redirections = _REDIRECTIONS_MAX

    def redirect_request(  # noqa: PLR0917 - urllib's own signature
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Follow one."""
        if urlsplit(newurl).scheme not in _SCHEMES:
            raise urllib.error.URLError(f"it is redirected to {newurl}, and only http and https are read")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener that knows http and https and nothing else: urllib's usual one reads files and FTP too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirections(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
