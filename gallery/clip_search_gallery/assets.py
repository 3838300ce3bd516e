"""The page's own files, read once at the start and served with an entity tag; knows nothing of what they do."""

import hashlib
from dataclasses import dataclass
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["Asset", "conditional", "read_assets", "tag_of"]

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_TAG_BYTES = 12


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent."""

    data: bytes
    media_type: str
    tag: str

    async def answer(self, request: Request) -> Response:
        """Send it, or say that the browser has it already: it asks each time, so an upgrade shows at once."""
        return conditional(request, self.data, self.media_type, tag=self.tag, cache="no-cache")


def read_assets() -> dict[str, Asset]:
    """Read the files of `page/`, by name."""
    folder = resources.files("clip_search_gallery").joinpath("page")
    assets = {}
    for file in folder.iterdir():
        _, dot, ending = file.name.rpartition(".")
        if dot + ending in _MEDIA_TYPES:
            data = file.read_bytes()
            assets[file.name] = Asset(data, _MEDIA_TYPES[dot + ending], tag_of(data))
    return assets


def tag_of(data: bytes) -> str:
    """Give the entity tag of bytes."""
    return f'"{hashlib.blake2b(data, digest_size=_TAG_BYTES).hexdigest()}"'


def conditional(
    request: Request, data: bytes, media_type: str, *, cache: str, tag: str | None = None, policy: str | None = None
) -> Response:
    """Answer with bytes, or with 304 where the browser has the same already.

    Args:
        request: what was asked.
        data: the content.
        media_type: of the content.
        cache: value of `Cache-Control`.
        tag: entity tag; by default that of the bytes.
        policy: content security policy; by default the page's.
    """
    tag = tag or tag_of(data)
    headers = {"ETag": tag, "Cache-Control": cache}
    if policy is not None:
        headers["Content-Security-Policy"] = policy
    known = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=media_type)
