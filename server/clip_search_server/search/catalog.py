"""Which models and collections a server has, by name; knows nothing of gRPC.

This release serves one model and one collection, both named `default`.
"""

from clip_search_server.encoder.encoder import Encoder
from clip_search_server.errors import NotFoundError, SpaceMismatchError
from clip_search_server.search.collection import AsyncCollection

__all__ = ["DEFAULT_NAME", "Catalog"]

DEFAULT_NAME = "default"


class Catalog:
    """Finds collections and models; an empty name means the default one."""

    def __init__(self, models: dict[str, Encoder], collections: dict[str, AsyncCollection]) -> None:
        """Take both tables; each must hold `DEFAULT_NAME`."""
        self.models = models
        self.collections = collections

    def collection(self, name: str) -> AsyncCollection:
        """Return the collection called `name`.

        Raises:
            NotFoundError: there is none.
        """
        found = self.collections.get(name or DEFAULT_NAME)
        if found is None:
            raise NotFoundError(f"collection: {name!r} does not exist; there is {_listing(self.collections)}.")
        return found

    def model(self, name: str) -> Encoder:
        """Return the model called `name`.

        Raises:
            NotFoundError: there is none.
        """
        found = self.models.get(name or DEFAULT_NAME)
        if found is None:
            raise NotFoundError(f"model: {name!r} does not exist; there is {_listing(self.models)}.")
        return found

    def pair(self, collection: str, model: str) -> tuple[AsyncCollection, Encoder]:
        """Return a collection and a model that embeds into its space.

        Raises:
            NotFoundError: one of them does not exist.
            SpaceMismatchError: they belong to different spaces.
        """
        items, encoder = self.collection(collection), self.model(model)
        if items.space_id != encoder.space_id:
            raise SpaceMismatchError(
                f"Collection {items.name!r} holds vectors of space {items.space_id}, but model "
                f"{model or DEFAULT_NAME!r} makes vectors of space {encoder.space_id}."
            )
        return items, encoder

    async def close(self) -> None:
        """Finish what runs; collections last, because models may still feed them."""
        for encoder in self.models.values():
            await encoder.close()
        for collection in self.collections.values():
            await collection.close()


def _listing(table: dict[str, Encoder] | dict[str, AsyncCollection]) -> str:
    return ", ".join(repr(name) for name in sorted(table))
