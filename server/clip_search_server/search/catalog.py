"""Which models and collections a server has, by name, and how that changes; knows nothing of gRPC.

Which model a request means is told in `models.py`. Collections and aliases live in a data folder, which outlives the
process; this is what of them is open. An alias is looked up once, when a request begins: a request goes on with the
collection it began with, wherever the alias points by then. Changes are made one at a time and to the end, even when
the caller who asked for one goes away.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from clip_search_server.encoder.encoder import Encoder, Vector
from clip_search_server.errors import (
    AliasedCollectionError,
    AlreadyExistsError,
    ClipSearchError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    ResourceExhaustedError,
    SpaceMismatchError,
    UnavailableError,
    UnknownCollectionError,
)
from clip_search_server.index import (
    Collection,
    DataFolder,
    ImageBudget,
    IndexSettings,
    KeptImages,
    Space,
    check_name,
)
from clip_search_server.search.collection import AsyncCollection
from clip_search_server.search.models import Models

__all__ = ["DEFAULT_NAME", "Catalog", "CollectionInfo"]

DEFAULT_NAME = "default"

#: Aliases of one server together; each is an entry in a file that is rewritten by every change.
_ALIASES_MAX = 1_000

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as it is listed.

    `damage` says why it could not be opened, `items` then being unknown and 0; `unusable` why it cannot be searched,
    be it damage or that no model is of its space.
    """

    name: str
    space_id: str
    dim: int
    items: int
    aliases: tuple[str, ...]
    damage: str | None = None
    unusable: str | None = None


class Catalog:
    """Finds collections and models, and creates and deletes collections; an empty name means the default one.

    Use `open`.
    """

    def __init__(
        self,
        models: Mapping[str, Encoder],
        folder: DataFolder,
        settings: IndexSettings,
        *,
        collections_max: int,
        keep_images_bytes: int = 0,
    ) -> None:
        """Take the models, the first of which is the default one, and the folder; `close` will close both."""
        self.models = Models(models)
        self._folder = folder
        self._image_budget = ImageBudget(keep_images_bytes)
        self._settings = settings
        self._collections_max = collections_max
        self._open: dict[str, AsyncCollection] = {}
        self._unusable: dict[str, ClipSearchError] = {}
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()
        self._likely: dict[str, Vector] = {}  # (queries, dim) by space

    @classmethod
    async def open(
        cls,
        models: Mapping[str, Encoder],
        data: Path,
        settings: IndexSettings,
        *,
        collections_max: int,
        keep_images_bytes: int = 0,
    ) -> "Catalog":
        """Open every collection of a data folder; a new folder gets the default one.

        A collection that cannot be opened does not keep the others from serving: asking for it gives the reason. Only
        where the default collection is a newer release's, or is of a space that no model is of and no other collection
        is of a model's space either, the folder is taken to be the wrong one.

        Raises:
            FailedPreconditionError: another server uses the folder, or the folder is the wrong one.
            DataLossError: the catalog is damaged.
            UnavailableError: the disk refuses.
        """
        folder = await asyncio.to_thread(DataFolder, data, _LOG.warning)
        catalog = cls(models, folder, settings, collections_max=collections_max, keep_images_bytes=keep_images_bytes)
        try:
            await catalog._open_all()
        except BaseException:
            await catalog._close_collections()
            folder.close()
            raise
        return catalog

    @property
    def collections(self) -> Iterable[AsyncCollection]:
        """The collections that can be used."""
        return tuple(self._open.values())

    @property
    def unopened(self) -> tuple[str, ...]:
        """Names of those that there are and that could not be opened."""
        return tuple(self._unusable)

    def collection(self, name: str) -> AsyncCollection:
        """Return the collection called `name`, or that the alias `name` points at.

        Raises:
            NotFoundError: there is none.
            ClipSearchError: it could not be opened, mostly DataLossError; the message names it.
        """
        asked = name or DEFAULT_NAME
        own = self._folder.contents.aliases.get(asked, asked)
        found = self._open.get(own)
        if found is not None:
            return found
        if own in self._unusable:
            error = self._unusable[own]
            raise type(error)(f"collection {own!r} cannot be used: {error}")
        raise UnknownCollectionError(asked, self._open)

    def model(self, name: str) -> Encoder:
        """Return the model called `name`, for an empty name the default one.

        Raises:
            NotFoundError: there is none.
        """
        return self.models.named(name)

    def pair(self, collection: str, model: str) -> tuple[AsyncCollection, Encoder]:
        """Return a collection and the model called `model`, for an empty name the model of the collection's space.

        Raises:
            NotFoundError: one of them does not exist.
            SpaceMismatchError: they belong to different spaces, or no model is of the collection's.
            ClipSearchError: the collection could not be opened.
        """
        items = self.collection(collection)
        return items, self.models.for_collection(items.name, items.space_id, model)

    async def listing(self) -> list[CollectionInfo]:
        """Return every collection by name in byte order, those that cannot be used included."""
        return [await self._info(name) for name in sorted(self._folder.contents.collections)]

    async def create(self, name: str, model: str) -> CollectionInfo:
        """Create an empty collection for a model's space.

        Raises:
            InvalidArgumentError: the name breaks the rule.
            AlreadyExistsError: a collection or an alias has it.
            NotFoundError: there is no such model.
            ResourceExhaustedError: there are as many collections as may be.
            UnavailableError: the disk refused.
        """
        check_name(name, "collection")
        encoder = self.model(model)
        return await self._to_the_end(lambda: self._create(name, Space(encoder.space_id, encoder.dim)))

    async def delete(self, name: str) -> None:
        """Delete a collection and everything in it; requests that are still at work on it get NotFoundError.

        Raises:
            InvalidArgumentError: the name breaks the rule, or is an alias.
            NotFoundError: there is no such collection.
            FailedPreconditionError: an alias points at it.
            UnavailableError: the disk refused; the collection is as it was.
        """
        check_name(name, "collection")
        await self._to_the_end(lambda: self._delete(name))

    async def set_alias(self, alias: str, name: str) -> str:
        """Point an alias at a collection, or with an empty name remove it; return where it pointed before, or "".

        An alias may take the place of a collection's own name, so that what asks for `default` gets another collection;
        that collection is then asked for by an alias of its own, which it must have. Pointing the name at itself, like
        removing the alias, gives it back.

        Raises:
            InvalidArgumentError: a name breaks the rule, or `name` is itself an alias.
            NotFoundError: there is no such collection.
            AlreadyExistsError: the alias is the only name of a collection.
            ResourceExhaustedError: there are too many aliases.
            UnavailableError: the disk refused; the alias is as it was.
        """
        check_name(alias, "alias")
        if name:
            check_name(name, "collection")
        return await self._to_the_end(lambda: self._set_alias(alias, name))

    async def close(self) -> None:
        """Finish what runs; collections last, because models may still feed them."""
        if self._changes:
            await asyncio.wait(self._changes)
        await self.models.close()
        try:
            await self._close_collections()
        finally:
            self._folder.close()

    async def _open_all(self) -> None:
        if self._folder.is_new:
            await asyncio.to_thread(self._folder.create, DEFAULT_NAME, self.models.spaces[0])
        contents = self._folder.contents
        default = contents.aliases.get(DEFAULT_NAME, DEFAULT_NAME)
        if default in contents.collections:
            with contextlib.suppress(DataLossError):  # Opening it will tell, and not keep the others from serving.
                self._check_is_right_folder(default)
        for number, name in enumerate(sorted(contents.collections, key=lambda name: (name != default, name)), 1):
            _LOG.info("opening collection %s (%d of %d)", name, number, len(contents.collections))
            await self._try_to_open(name)
            if name == default and isinstance(self._unusable.get(name), FailedPreconditionError):
                raise self._unusable[name]
        await asyncio.to_thread(self._folder.note_findings)

    def _check_is_right_folder(self, default: str) -> None:
        """Raise FailedPreconditionError where the default collection says that this is another server's folder."""
        spaces, listed = self.models.spaces, self._folder.contents.collections
        for space in spaces:
            try:
                self._folder.check_space(default, space)
            except SpaceMismatchError as error:
                mismatch = error
            else:
                return
        if any(space in spaces for space in listed.values()):
            return
        if len(spaces) == 1:
            raise mismatch
        raise SpaceMismatchError(f"{self.models.refusal_of(default, listed[default].space_id)}; nothing was changed")

    async def _try_to_open(self, name: str) -> None:
        try:
            self._open[name] = await self._opened(name)
        except ClipSearchError as error:
            _LOG.error("collection %s cannot be used: %s", name, error)
            self._unusable[name] = error

    async def _opened(self, name: str) -> AsyncCollection:
        def open_it() -> tuple[Collection, KeptImages]:
            folder = self._folder.folder_of(name)
            index = Collection.open_existing(folder, settings=self._settings, progress=_teller(name, logging.INFO))
            report = _teller(name, logging.WARNING)
            return index, KeptImages(folder, self._image_budget, index.digests, index.sync, report)

        index, images = await asyncio.to_thread(open_it)
        collection = AsyncCollection(name, index, images=images)
        if collection.space_id in self._likely:
            collection.expect_queries(self._likely[collection.space_id])
        return collection

    def expect_queries(self, space_id: str, queries: Vector) -> None:
        """Say which queries, float32 (queries, dim) of unit length, collections of a space are likely to be asked."""
        self._likely[space_id] = queries
        for collection in self._open.values():
            if collection.space_id == space_id:
                collection.expect_queries(queries)

    async def _create(self, name: str, space: Space) -> CollectionInfo:
        contents = self._folder.contents
        if name in contents.collections or name in contents.aliases:
            kind = "a collection" if name in contents.collections else "an alias"
            raise AlreadyExistsError(f"collection: {name!r} is the name of {kind} already.")
        if len(contents.collections) >= self._collections_max:
            raise ResourceExhaustedError(
                f"there are {len(contents.collections)} collections; at most {self._collections_max} are accepted.",
                retry_after_seconds=None,
            )
        await asyncio.to_thread(self._folder.create, name, space)
        await self._try_to_open(name)
        error = self._unusable.get(name)
        if error is not None:
            # Its creator is told that it does not exist: then it must not, and the name must be free.
            await self._delete(name)
            raise UnavailableError(f"collection {name!r} could not be created ({error})") from error
        return await self._info(name)

    async def _delete(self, name: str) -> None:
        contents = self._folder.contents
        if name in contents.aliases and name not in contents.collections:
            description = f"{name!r} is an alias of {contents.aliases[name]!r}; give the collection's own name"
            raise InvalidArgumentError("collection", description)
        self._check_exists(name)
        aliases = self._aliases_of(name)
        if aliases:
            raise AliasedCollectionError(name, aliases)
        await asyncio.to_thread(self._folder.begin_deletion, name)
        self._unusable.pop(name, None)
        opened = self._open.pop(name, None)
        if opened is not None:
            try:
                await opened.close(deleted=True)
            except ClipSearchError as error:
                _LOG.warning("closing the deleted collection %s: %s", name, error)
        await asyncio.to_thread(self._folder.finish_deletion, name)

    async def _set_alias(self, alias: str, name: str) -> str:
        contents = self._folder.contents
        if name in contents.aliases and name not in contents.collections:
            description = f"{name!r} is an alias of {contents.aliases[name]!r}; give the collection's own name"
            raise InvalidArgumentError("collection", description)
        aliases = dict(contents.aliases)
        previous = aliases.pop(alias, "")
        if name:
            self._check_exists(name)
        if name not in ("", alias):
            self._check_stays_in_reach(alias, aliases)
            aliases[alias] = name
        if len(aliases) > max(_ALIASES_MAX, len(contents.aliases)):
            raise ResourceExhaustedError(
                f"there are {_ALIASES_MAX} aliases; no more are accepted.", retry_after_seconds=None
            )
        await asyncio.to_thread(self._folder.set_aliases, aliases)
        return previous

    def _check_stays_in_reach(self, alias: str, others: Mapping[str, str]) -> None:
        """Raise AlreadyExistsError where an alias would take the only name of a collection."""
        if alias in self._folder.contents.collections and alias not in others.values():
            raise AlreadyExistsError(
                f"alias: {alias!r} is the name of a collection already; for the alias to take its place, give that "
                f"collection another name first: search_client alias {alias}-old {alias}"
            )

    def _check_exists(self, name: str) -> None:
        if name not in self._folder.contents.collections:
            raise UnknownCollectionError(name, self._folder.contents.collections)

    def _aliases_of(self, name: str) -> tuple[str, ...]:
        return tuple(sorted(alias for alias, own in self._folder.contents.aliases.items() if own == name))

    async def _info(self, name: str) -> CollectionInfo:
        opened = self._open.get(name)
        aliases = self._aliases_of(name)
        if opened is None:
            space = self._folder.contents.collections.get(name, Space("", 0))
            error = self._unusable.get(name)
            reason = None if error is None else str(error)
            return CollectionInfo(name, space.space_id, space.dim, 0, aliases, reason, reason)
        unusable = self.models.why_unusable(opened.space_id)
        return CollectionInfo(name, opened.space_id, opened.dim, opened.item_count, aliases, None, unusable)

    async def _to_the_end(self, change: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a change after those before it, to its end even where the caller is cancelled meanwhile."""

        async def in_turn() -> T:
            async with self._changing:
                return await change()

        task = asyncio.create_task(in_turn())
        self._changes.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._changes.discard(task)
        # Asked for even where the caller has gone away: asyncio complains of exceptions that nobody looked at.
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.debug("a change of the catalog failed: %s", type(error).__name__)  # what it quotes is the caller's

    async def _close_collections(self) -> None:
        for collection in self._open.values():
            await collection.close()


def _teller(name: str, level: int) -> Callable[[str], None]:
    def tell(line: str) -> None:
        _LOG.log(level, "collection %s: %s", name, line)

    return tell
