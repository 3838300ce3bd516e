"""What is answered at which address; every handler asks the server through `calls.py` and holds nothing itself.

GET  /                          the page; /page/NAME its files
GET  /api/search?…              hits, or a listing without anything to look for; `questions.py` tells the names
GET  /api/item?id=ID            one item
GET  /api/status                whether the server is there, and its figures
POST /api/uploads               keeps a picture to search by, gives its key; GET /api/uploads/KEY shows it
GET  /pictures/small/VERSION?id=ID    an item's thumbnail; /pictures/whole/… the picture itself
"""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from anyio import CapacityLimiter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from clip_search.client import Client
from clip_search.errors import ClipSearchError, UnavailableError, UnreachableError
from clip_search.filter_text import FilterSyntaxError
from clip_search.pictures import picture_bytes_max
from clip_search.results import SearchResults, StoredItem
from clip_search_gallery import problems
from clip_search_gallery.access import PICTURE_POLICY, AccessGuard
from clip_search_gallery.answers import (
    found_document,
    is_lasting,
    item_document,
    items_document,
    picture_address,
    status_document,
    version_of,
)
from clip_search_gallery.assets import conditional, read_assets
from clip_search_gallery.calls import Calls, UnwantedError
from clip_search_gallery.pictures import Picture, PictureFolders, browser_type, kept_picture
from clip_search_gallery.problems import GatewayError
from clip_search_gallery.questions import Question, read_question
from clip_search_gallery.shelf import Shelf
from clip_search_gallery.uploads import Uploads

__all__ = ["Settings", "create_app"]

_Check = Callable[[], Awaitable[bool]]

_SMALL_BYTES_MAX = 8 * 1024 * 1024
_WHOLE_BYTES_MAX = 64 * 1024 * 1024
_FOR_GOOD = "private, max-age=31536000, immutable"
_ASK_EACH_TIME = "private, no-cache"
_UPLOADS_AT_A_TIME = 4
_GONE = 499  # the browser turned away; nobody reads this answer


@dataclass(frozen=True, slots=True)
class Settings:
    """What the gateway shows, and to whom.

    Args:
        connect: makes a client for the server and the collection; nothing is sent by that.
        collection: the collection's name or alias, empty for `default`.
        folders: whose pictures may be shown whole.
        host_names: names, besides `localhost`, under which the page may be opened.
    """

    connect: Callable[[], Client]
    collection: str = ""
    folders: PictureFolders = field(default_factory=PictureFolders)
    host_names: Iterable[str] = ()


def create_app(settings: Settings) -> ASGIApp:
    """Give the gateway as an ASGI application."""
    calls = Calls(settings.connect)
    gateway = _Gateway(calls, settings)
    assets = read_assets()
    index = assets.pop("index.html")

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        calls.close()

    application = Starlette(
        routes=[
            Route("/", index.answer),
            *(Route(f"/page/{name}", asset.answer) for name, asset in assets.items()),
            Route("/favicon.ico", assets["icon.svg"].answer),
            Route("/api/search", gateway.search),
            Route("/api/item", gateway.item),
            Route("/api/status", gateway.status),
            Route("/api/uploads", gateway.upload, methods=["POST"]),
            Route("/api/uploads/{key}", gateway.uploaded),
            Route("/pictures/small/{version}", gateway.small),
            Route("/pictures/whole/{version}", gateway.whole),
        ],
        exception_handlers={
            ClipSearchError: problems.answer_client_error,
            FilterSyntaxError: problems.answer_filter_error,
            HTTPException: problems.answer_http_error,
        },
        lifespan=lifespan,
    )
    return AccessGuard(application, settings.host_names)


class _Gateway:
    """The handlers."""

    def __init__(self, calls: Calls, settings: Settings) -> None:
        self._calls = calls
        self._collection = settings.collection
        self._folders = settings.folders
        self._uploads = Uploads()
        self._uploading = CapacityLimiter(_UPLOADS_AT_A_TIME)
        self._shelf = Shelf(calls, settings.collection)

    # ── Searching ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def search(self, request: Request) -> Response:
        """Give one page of hits, or of a listing."""
        question = read_question(request.query_params, self._uploads)
        try:  # who types on turns away from what is not begun
            return _json(await (self._found if question.parts else self._listed)(question, request.is_disconnected))
        except UnwantedError:
            return Response(status_code=_GONE)

    async def _found(self, question: Question, is_unwanted: _Check) -> dict[str, object]:
        window = (await self._calls.limits()).search_limit_max
        limit = min(question.limit, window - question.offset)
        if limit <= 0:
            return found_document(self._collection, [], {}, following="", search_ms=0)

        def find(client: Client) -> tuple[SearchResults, float, dict[str, StoredItem]]:
            started = time.perf_counter()
            found = client.search(
                question.parts,
                limit=limit,
                offset=question.offset,
                filter=question.filter,
                ranking=question.ranking,
            )
            search_ms = (time.perf_counter() - started) * 1000
            ids = [hit.id for hit in found.hits]
            return found, search_ms, {item.id: item for item in client.get_items(ids).items} if ids else {}

        found, search_ms, stored = await self._calls.run(find, is_unwanted)
        self._shelf.order(stored.values())
        end = question.offset + limit
        following = str(end) if len(found.hits) == limit and end < window else ""
        hits = [hit for hit in found.hits if hit.id not in question.likes]
        return found_document(self._collection, hits, stored, following=following, search_ms=search_ms)

    async def _listed(self, question: Question, is_unwanted: _Check) -> dict[str, object]:
        page = await self._calls.run(
            lambda client: client.list_items(
                page_size=question.limit, page_token=question.cursor, filter=question.filter
            ),
            is_unwanted,
        )
        self._shelf.order(page.items)
        return items_document(self._collection, page.items, following=page.next_page_token)

    async def item(self, request: Request) -> Response:
        """Give one item."""
        return _json(item_document(self._collection, await self._stored(request)))

    async def status(self, _request: Request) -> Response:
        """Tell whether the server is there, and its figures; a server that is away is no error here."""
        try:
            stats = await self._calls.run(Client.stats)
            return _json(
                {"state": "ready", "server": self._calls.server} | status_document(stats, await self._calls.info())
            )
        except ClipSearchError as error:
            state = "failing"
            if isinstance(error, UnavailableError):
                state = "unreachable" if isinstance(error, UnreachableError) else "starting"
                self._calls.forget()
            return _json({"state": state, "server": self._calls.server, "message": str(error)})

    # ── Pictures to search by ────────────────────────────────────────────────────────────────────────────────────────

    async def upload(self, request: Request) -> Response:
        """Keep a picture."""
        bytes_max = picture_bytes_max(await self._calls.limits())
        async with self._uploading:
            return _json({"image": self._uploads.add(await self._received(request, bytes_max))})

    @staticmethod
    async def _received(request: Request, bytes_max: int) -> bytes:
        """Read a body of bounded size."""
        pieces: list[bytes] = []
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > bytes_max:
                message = f"the picture has more than the {bytes_max / 1e6:,.0f} MB that the server takes"
                raise GatewayError(413, "UPLOAD", message)
            pieces.append(piece)
        if not size:
            raise GatewayError(400, "UPLOAD", "the file is empty")
        return b"".join(pieces)

    async def uploaded(self, request: Request) -> Response:
        """Show a picture that was sent."""
        data = self._uploads.get(request.path_params["key"])
        if data is None:
            raise GatewayError(410, "UPLOAD_GONE", "the picture is no longer here; choose it once more")
        media_type = browser_type(data)
        if media_type is None:
            raise GatewayError(404, "NO_PICTURE", "browsers do not show this kind of picture")
        return conditional(request, data, media_type, cache=_FOR_GOOD, policy=PICTURE_POLICY)

    # ── Pictures of items ────────────────────────────────────────────────────────────────────────────────────────────

    async def small(self, request: Request) -> Response:
        """Give an item's thumbnail; where it has none, the picture itself if that is small enough."""
        version = request.path_params["version"]
        data = await self._shelf.get(version, _id(request))
        media_type = browser_type(data) if data else None
        if data and media_type:
            return self._picture(request, Picture(data, media_type), lasting=is_lasting(version))
        item = await self._stored(request)
        current = version_of(self._collection, item)
        if current != version:
            return RedirectResponse(picture_address("small", current, item.id), headers={"Cache-Control": "no-store"})
        return await self._from_outside(request, item, _SMALL_BYTES_MAX)

    async def whole(self, request: Request) -> Response:
        """Give an item's picture; where only its thumbnail is to be had, that."""
        item = await self._stored(request)
        version = version_of(self._collection, item)
        try:
            return await self._from_outside(request, item, _WHOLE_BYTES_MAX)
        except GatewayError:
            data = await self._shelf.get(version, item.id)
            media_type = browser_type(data) if data else None
            if data and media_type:
                return self._picture(request, Picture(data, media_type), lasting=False)
            raise

    async def _from_outside(self, request: Request, item: StoredItem, bytes_max: int) -> Response:
        """Give the file of an item, or what the server keeps of its picture."""
        picture = await self._calls.run(lambda _: self._folders.read(item, bytes_max))
        if picture is not None:
            return self._picture(request, picture, lasting=False)
        picture = await self._calls.run(lambda client: kept_picture(client, item, bytes_max))
        if picture is None:
            raise GatewayError(404, "NO_PICTURE", "there is no picture of this item to show")
        return self._picture(request, picture, lasting=is_lasting(version_of(self._collection, item)))

    async def _stored(self, request: Request) -> StoredItem:
        item_id = _id(request)
        found = await self._calls.run(lambda client: client.get_items([item_id]))
        if not found.items:
            raise GatewayError(404, "NOT_FOUND", f"there is no item {item_id!r}, or no longer")
        return found.items[0]

    @staticmethod
    def _picture(request: Request, picture: Picture, *, lasting: bool) -> Response:
        cache = _FOR_GOOD if lasting else _ASK_EACH_TIME
        return conditional(request, picture.data, picture.media_type, cache=cache, policy=PICTURE_POLICY)


def _id(request: Request) -> str:
    item_id = request.query_params.get("id", "")
    if not item_id:
        raise GatewayError(400, "QUERY", "id: is missing")
    return item_id


def _json(document: object) -> Response:
    return JSONResponse(document, headers={"Cache-Control": "no-store"})
